"""Fine-tune a language model with transformers' Trainer; two lines more watch its layers, and edit facts at the end.

python examples/with_transformers.py --tiny     # a tiny random model, in seconds
python examples/with_transformers.py            # SmolLM2-135M
"""

from __future__ import annotations

from collections.abc import Sequence

from parts import QUICK, language_model, options, rows
from transformers import Trainer, TrainingArguments

from lga_lightning import ApplyEditsCallback, LayerAttributionCallback, load_requests


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, watch, edit, save."""
    asked = options(arguments, "Fine-tune with transformers' Trainer, watch the layers, edit facts at the end.")
    llm, tokenizer = language_model(asked.tiny)
    proxies = load_requests(split="proxy", limit=4 if asked.tiny else 24).requests
    facts = load_requests(split="test", limit=2).requests
    settings = TrainingArguments(
        output_dir=str(asked.folder),
        num_train_epochs=2,
        per_device_train_batch_size=2,
        learning_rate=1e-5,
        logging_steps=1,
        save_strategy="no",
        report_to="none",  # or "tensorboard", "wandb", ...: layer profiles go there, too
    )
    trainer = Trainer(llm, settings, train_dataset=rows(tokenizer), processing_class=tokenizer)

    trainer.add_callback(LayerAttributionCallback(trainer, proxies))
    trainer.add_callback(ApplyEditsCallback(trainer, facts, editor=QUICK))

    trainer.train()
    trainer.save_state()  # trainer_state.json has the layer profiles
    trainer.save_model()  # with the edits


if __name__ == "__main__":
    main()
