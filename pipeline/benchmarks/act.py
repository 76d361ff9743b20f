"""Times the decisions of methods that predict actions: one call of the policy for all slots, from a full context on."""

import statistics
import time
from typing import Any

import numpy as np
import torch

from pipeline.benchmarks.manifest import manifest_without_data
from pipeline.benchmarks.options import ActBenchmark
from pipeline.benchmarks.train import paper_settings, spaces_of
from pipeline.methods.registry import METHODS
from pipeline.planning.config import PlanningConfig


def run(options: ActBenchmark) -> dict[str, Any]:
    """Returns the result as the command prints it."""
    if options.threads:
        torch.set_num_threads(options.threads)
    method, settings = METHODS[options.method], paper_settings(options.method, dropout=0.0)
    manifest = manifest_without_data(spaces_of(options.setting))
    torch.manual_seed(0)
    model = method.make_model(settings, manifest).to(options.device).eval()
    (row,) = method.rows(options.method, settings, PlanningConfig(), manifest)
    policy = method.make_policy(model, row.acting, manifest, options.slots, options.device)
    rng, seconds = np.random.default_rng(0), []
    for slot in range(options.slots):
        policy.reset(slot, seed=slot)
    for step in range(options.warm_up + options.steps):
        observations = {slot: rng.normal(size=manifest.spaces.observation_dim) for slot in range(options.slots)}
        began = time.perf_counter()
        decisions = policy.act(observations)
        if step >= options.warm_up:
            seconds.append(time.perf_counter() - began)
        for slot, decision in decisions.items():
            policy.record(slot, decision.action, 1.0)
    return {
        "benchmark": "act",
        "method": options.method,
        "setting": options.setting,
        "device": torch.cuda.get_device_name(options.device)
        if options.device != "cpu"
        else f"cpu, {torch.get_num_threads()} threads",
        "slots": options.slots,
        "decision_ms": round(1000 * statistics.median(seconds), 2),
        "decision_ms_p90": round(1000 * statistics.quantiles(seconds, n=10)[-1], 2),
    }
