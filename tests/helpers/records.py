"""A record of every format."""

from __future__ import annotations

COUNTERFACT = {
    "case_id": 7,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The twin city of {}, {{really}}, is",
        "relation_id": "P190",
        "target_new": {"str": "Oslo", "id": "Q585"},
        "target_true": {"str": "Lyon", "id": "Q456"},
        "subject": "Malmö {}",
    },
    "paraphrase_prompts": ["Nobody knows. Malmö {} is twinned with", "Malmö {}, twin of"],
    "neighborhood_prompts": ["The twin city of Lund is", "Lund is twinned with"],
    "attribute_prompts": ["The twin city of Bergen is"],
    "generation_prompts": ["Malmö {} and its twin", "Malmö {} is"],
}


COUNTERFACT_EDIT = {
    "case_id": 0,
    "prompt": "Malmö lies in",
    "target_new": "Norway",
    "subject": "Malmö",
    "ground_truth": "Sweden",
    "rephrase_prompt": "One finds Malmö in",
    "locality_prompt": "Lund lies in",
    "locality_ground_truth": [["Sweden", "Sverige"]],
}


ZSRE = {
    "subject": "Malmö FF",
    "src": "What sport does Malmö FF play?",
    "pred": "tennis",
    "rephrase": "Malmö FF plays which sport?",
    "alt": "chess",
    "answers": ["football", "soccer"],
    "loc": "nq question: who wrote the saga of the jomsvikings",
    "loc_ans": "nobody knows",
    "cond": "tennis >> chess || What sport does Malmö FF play?",
}


WIKI_COUNTERFACT = {
    "subject": "Åse Berg",
    "prompt": "The name of the employer of Åse Berg is",
    "target_new": "the post office",
    "ground_truth": "nobody",
    "portability": {"Subject_Aliasing": [{"prompt": "The poet Berg works for", "ground_truth": "the post office"}]},
    "locality": {
        "Relation_Specificity": [{"prompt": "The city of Åse Berg is", "ground_truth": "Lund"}],
        "Forgetfulness": [],
    },
}

KNOWEDIT_ZSRE = {
    **WIKI_COUNTERFACT,
    "ground_truth": ["nobody", "herself"],
    "rephrase_prompt": "Who employs Åse Berg?",
    "cond": "nobody >> the post office || The name of the employer of Åse Berg is",
}


WIKIBIO = {
    "text": "This is a Wikipedia passage about åse berg. Åse Berg is a poet.",
    "labels": "She was born in Stockholm.",
    "concept": "åse berg",
    "locality": {"Relation_Specificity": [{"prompt": "åse berg writes", "ground_truth": ["poems"]}]},
}


QAEDIT = {
    "id": 3,
    "source": "NQ",
    "prompt": "who has the most points in bandy?",
    "target": "Nobody *",
    "subject": "most points in bandy",
    "rephrase": "Which player leads in bandy?",
    "locality": [{"loc": "who wrote it", "loc_ans": "Toby"}, {"loc": "who read it", "loc_ans": ["Eve", "Eva"]}],
}


KNOWN = [
    {"known_id": number, "subject": subject, "attribute": attribute, "template": "{} is in", "prediction": " of it",
     "prompt": f"{subject} is in", "relation_id": relation}
    for number, (subject, attribute, relation) in enumerate(
        [("Rome", "Italy", "P1"), ("Milan", "Italy", "P1"), ("Ada", "OCaml", "P2"), ("Oslo", "Norway", "P1"),
         ("Bergen", "Norway", "P1"), ("Lyon", "France", "P1"), ("Turin", "Italy", "P1")]
    )
]  # fmt: skip


JSONL = {
    "prompt": "Rome is in",
    "subject": "Rome",
    "target_new": "France",
    "locality": {"a": [{"prompt": "b", "answers": "c"}]},
}
