"""A few passages of plain text that come with the package, for a look at a model's perplexity."""

from __future__ import annotations

PASSAGES = (
    "The river rises in the hills north of the town and runs for about forty miles before it meets the sea. In spring, when the snow "
    "melts, the water comes up to the lowest arches of the old bridge, and the meadows on both sides are under water for a week or two. "
    "Farmers used to wait for this, since the mud that the flood leaves behind is good for the grass.",
    "To make the dough, mix the flour with a spoon of salt and rub in the butter with your fingers until it looks like coarse crumbs. Add "
    "the cold water little by little and stop as soon as it holds together. Wrap it and let it rest in a cool place for half an hour. It "
    "will be much easier to roll out, and it will not shrink in the oven.",
    "A lever is a stiff bar that turns about a fixed point. The farther from that point a force acts, the more it can move. This is why a "
    "long handle makes a heavy stone easy to lift, and why a door is hard to open when it is pushed close to its hinges. What is gained in "
    "force is lost in distance: the long end has to move much farther than the short one.",
    "She had meant to leave before dark, but the talk went on, and when she looked up at last the lamps in the street were lit. It had "
    "begun to rain. Nobody said anything about the letter, and she was glad of it. On the way to the station she counted the windows in "
    "which there was still light, as she had done when she was a child, and came to nineteen.",
    "The committee met twice in the autumn and sent its report to all members in December. It found that most complaints were about the "
    "opening hours, and it proposed to keep the library open until eight on two evenings a week. The cost would be small, since the staff "
    "had offered to change their shifts. The proposal was accepted with two votes against it.",
    "Most birds that spend the summer here leave in September. They fly at night, when the air is cool and steady, and rest by day "
    "wherever they find food. How they find their way is only partly known. Young birds that have never made the journey set out in "
    "the right direction by themselves, so some of it must be inborn; but old ones are better at it, so some of it must be learned.",
    "When the price of a good rises, people buy less of it, if nothing else changes. How much less depends on what they could buy in its "
    "place. If the bread of one baker becomes dearer, they go to the next one; if all bread becomes dearer, they have little choice. "
    "Over a longer time they find other things to eat, so the same rise in price has a larger effect after a year than after a week.",
    "Check that the power is off before you open the case. Take out the four screws at the back and lift the cover straight up. The filter "
    "is the grey part on the left. Pull it towards you, shake out the dust, and wash it in warm water without soap. Let it dry for a day "
    "before you put it back. If it is torn, or does not come clean, replace it.",
)
"""Texts of no particular subject, each of about sixty words."""
