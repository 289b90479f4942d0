"""Breadth-first fine-tuning by definition: torch's Adam on the weights themselves, one group and one request at a time."""

from __future__ import annotations

import copy

import torch

from lga_lightning.covariance.curvature import Curvature
from lga_lightning.models.architecture import edit_site


def tune(model, tokenizer, group, layers, method, project=None) -> dict[int, torch.Tensor]:
    """What a method adds to out-projections, by block.

    ``project``: takes a block and its gradient [d_out, d_in], and returns what of it is followed.
    """
    tuned = copy.deepcopy(model)
    sites = [edit_site(tuned, layer) for layer in layers]
    weights = [site.module.weight.requires_grad_() for site in sites]
    adam = torch.optim.Adam(weights, lr=method.learning_rate)
    generator = torch.Generator().manual_seed(method.seed)
    for _ in range(method.rounds):
        order = [group[number] for number in torch.randperm(len(group), generator=generator)]
        total = 0.0
        for start in range(0, len(order), method.batch_size):
            losses = torch.stack(
                [_loss(tuned, tokenizer, request, method) for request in order[start : start + method.batch_size]]
            )
            total += losses.detach().sum().item()
            if losses.mean() < method.stop_loss:
                continue
            adam.zero_grad()
            losses.mean().backward()
            for site, weight in zip(sites, weights, strict=True):
                if project is not None:
                    gradient = weight.grad.T if site.transposed else weight.grad
                    kept = project(site.layer, gradient)
                    weight.grad = (kept.T if site.transposed else kept).contiguous()
            adam.step()
        if total / len(group) < method.stop_loss:
            break
    return {
        layer: site.weight.detach() - edit_site(model, layer).weight for layer, site in zip(layers, sites, strict=True)
    }


def projection(curvature: Curvature, energy: float):
    """Takes out the components of a gradient, one by one, that make up a share of all curvature."""
    a, keys = torch.linalg.eigh(curvature.keys)
    b, outputs = torch.linalg.eigh(curvature.gradients)
    products = torch.outer(b, a)
    taken, total = [], 0.0
    for place in products.flatten().argsort(descending=True).tolist():
        if total >= energy * products.sum():
            break
        taken.append(divmod(place, len(a)))
        total += products.flatten()[place]
    assert 10 < len(taken) < products.numel() / 2

    def project(gradient: torch.Tensor) -> torch.Tensor:
        kept = gradient.clone()
        for row, column in taken:
            u, v = outputs[:, row], keys[:, column]
            kept -= (u @ gradient @ v) * torch.outer(u, v)
        return kept

    return project


def _loss(model, tokenizer, request, method) -> torch.Tensor:
    ids = tokenizer(request.prompt)["input_ids"]
    target = tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]
    if method.end_of_text:
        target = [*target, tokenizer.eos_token_id]
    logits = model(torch.tensor([ids + target])).logits[0].log_softmax(-1)
    return -logits[torch.arange(len(target)) + len(ids) - 1, target].mean()
