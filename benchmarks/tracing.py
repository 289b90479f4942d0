"""What causal tracing costs: ours, one forward pass at a time, and the noisy copies together as in ROME's code.

    python benchmarks/tracing.py [--model smollm2-135m] [--facts 2] [--rounds 1] [--heat-map]

All find the same indirect effects: MLP windows of 10 layers at the subject's last token, or with ``--heat-map`` three
kinds at every token from the subject on (what is to the left of it has no effect, and the plain ways leave it out as well).
The plain ways run a pass from the first token to the last and through all blocks for each token, layer and kind. They spare
themselves the clean run, which is made once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel

from lga_lightning.data import load_requests
from lga_lightning.locators.base import knows_old_answer
from lga_lightning.locators.tracer import EncodedFact, Kind, Tracer, embedding_spread, encode_fact
from lga_lightning.models.architecture import attention, blocks, edit_site
from lga_lightning.models.hooks import first_tensor, frozen, per_row, replaced_output
from lga_lightning.models.loading import load_model

WINDOW = 10


def plain(
    model: PreTrainedModel, fact: EncodedFact, noise: Tensor, tokens: list[int], kinds: list[Kind], copies: int
) -> Tensor:
    """A pass for each restoration and each so many copies: [tokens, kinds, L] effects."""
    layers = range(len(blocks(model)))
    modules: dict[str, list[nn.Module]] = {
        "block": blocks(model),
        "mlp": [edit_site(model, layer).module for layer in layers],
        "attention": [attention(model, layer) for layer in layers],
    }
    first, last = fact.subject
    everything = [module for part in modules.values() for module in part]
    clean: dict[nn.Module, Tensor] = {}
    with ExitStack() as stack:
        for module in everything:
            handle = module.register_forward_hook(lambda m, _, out: clean.update({m: per_row(first_tensor(out), 1)[0]}))
            stack.callback(handle.remove)
        model(input_ids=fact.input_ids, use_cache=False)

    def probability(token: int, restored: Sequence[nn.Module]) -> Tensor:
        found = []
        for part in noise.split(copies):

            def corrupt(embedded: Tensor, part: Tensor = part) -> Tensor:
                embedded = embedded.clone()
                embedded[:, first : last + 1] += part
                return embedded

            with ExitStack() as stack:
                stack.enter_context(replaced_output(model.get_input_embeddings(), corrupt))
                for module in restored:

                    def put(output: Tensor, value: Tensor = clean[module][token]) -> Tensor:
                        by_row = per_row(output, copies).clone()
                        by_row[:, token] = value
                        return by_row.view_as(output)

                    stack.enter_context(replaced_output(module, put))
                logits = model(input_ids=fact.input_ids.expand(copies, -1), use_cache=False).logits
            steps = logits[:, -fact.answer.shape[1] :].float().log_softmax(-1)
            found.append(steps.gather(-1, fact.answer.expand(copies, -1).unsqueeze(-1)).squeeze(-1).sum(1).exp())
        return torch.cat(found).mean()

    effects = []
    for token in tokens:
        for kind in kinds:
            for layer in layers:
                low = layer - WINDOW // 2
                span = [layer] if kind == "block" else [k for k in range(low, low + WINDOW) if k in layers]
                effects.append(probability(token, [modules[kind][k] for k in span]))
    return torch.stack(effects).view(len(tokens), len(kinds), -1) - probability(0, [])


def together(model: PreTrainedModel, fact: EncodedFact, noise: Tensor, tokens: list[int], kinds: list[Kind]) -> Tensor:
    """Ours."""
    tracer = Tracer(model, fact, noise)
    effects = [tracer.effects(token, kinds, WINDOW) for token in tokens]
    return torch.stack([torch.stack([found[kind] for kind in kinds]) for found in effects])


def main() -> None:
    """Time all on the same facts, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", default=None)
    parser.add_argument("--facts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--heat-map", action="store_true")
    args = parser.parse_args()

    model, tokenizer = load_model(args.model)
    model.to(args.device)
    requests = load_requests(args.data, limit=4 * args.facts).requests
    known = knows_old_answer(model, tokenizer, requests).tolist()
    chosen = [request for request, knows in zip(requests, known, strict=True) if knows][: args.facts]
    spread = embedding_spread(model, tokenizer, chosen)
    kinds: list[Kind] = ["block", "mlp", "attention"] if args.heat_map else ["mlp"]
    contenders: dict[str, Callable[..., Tensor]] = {
        "one forward pass at a time": partial(plain, copies=1),
        "ten copies a pass": partial(plain, copies=10),
        "ours": together,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    largest = 0.0
    with torch.no_grad(), frozen(model):
        width = first_tensor(
            model.get_input_embeddings()(torch.zeros(1, 1, dtype=torch.long, device=args.device))
        ).shape[-1]
        for _ in range(args.rounds):
            for request in chosen:
                fact = encode_fact(tokenizer, request, torch.device(args.device))
                first, last = fact.subject
                noise = torch.randn(10, last - first + 1, width, generator=torch.Generator().manual_seed(0))
                noise = (3 * spread * noise).to(args.device)
                tokens = list(range(first, fact.last + 1)) if args.heat_map else [last]
                effects = {}
                for name, run in contenders.items():
                    start = time.perf_counter()
                    effects[name] = run(model, fact, noise, tokens, kinds).double().cpu()
                    times[name].append(time.perf_counter() - start)
                largest = max(largest, *((other - effects["ours"]).abs().max().item() for other in effects.values()))

    what = "three kinds, all tokens from the subject on" if args.heat_map else "MLPs at the last subject token"
    table = Table(title=f"Causal tracing on {args.model}, {args.device}, float32, {len(chosen)} facts: {what}")
    for heading in ("", "seconds a fact", "speed-up"):
        table.add_column(heading, justify="right")
    slow_times = times["one forward pass at a time"]
    for name, spent in times.items():
        ratio = statistics.median(slow / own for slow, own in zip(slow_times, spent, strict=True))
        table.add_row(name, f"{statistics.median(spent):.2f}", f"{ratio:.1f}x")
    Console().print(table)
    Console().print(f"Largest difference of an effect: {largest:.1e}")


if __name__ == "__main__":
    main()
