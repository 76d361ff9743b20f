from pipeline.benchmarks.train import TrainBenchmark, run


def test_the_benchmark_checks_the_loss_and_reports_every_key() -> None:
    result = run(TrainBenchmark(device="cpu", batch_size=2, repeats=1, steps=1))
    assert result["same_loss"] is True
    wanted = {"benchmark", "setting", "device", "tokens_per_second", "reference_tokens_per_second", "ratio"}
    assert wanted | {"utilisation", "peak_gib"} <= result.keys()
    assert (result["batch_size"], result["precision"], result["ratios"]) == (2, "float32", [result["ratio"]])
