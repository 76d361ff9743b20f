"""What each benchmark can be told; the measurements are in modules of their own, which take longer to import."""

from typing import Literal

from pydantic import Field

from pipeline.configuration import Config, Place
from pipeline.planning.config import PlanningConfig

TrainSetting = Literal["hopper", "walker2d", "ant"]

# observation_dim, action_dim, horizon, beam_width: the released code's settings; 100 bins, context 5, cdf_act 0.6.
PLANNER_SETTINGS = {
    "hopper": (11, 3, 15, 128),
    "halfcheetah": (17, 6, 5, 32),
    "walker2d": (17, 6, 15, 128),
    "ant": (27, 8, 5, 128),
}


class BenchmarkConfig(Config):
    """What every benchmark can be told."""

    record: bool = Field(False, description="Append the result to tests/benchmarks/results.jsonl.")


class PlannerBenchmark(BenchmarkConfig):
    """Options of `jobs/benchmark.py planner`."""

    setting: Literal["hopper", "halfcheetah", "walker2d", "ant"] = Field("hopper", description="Dimensions and search.")
    episodes: int = Field(1, ge=1, description="Episodes in one call.")
    device: str = Field("cpu", description="cpu or cuda.")
    threads: int | None = Field(None, ge=1, description="Torch's threads; null is torch's own choice.")
    repeats: int = Field(7, ge=1, description="Timed calls of the planner.")
    reference_repeats: int = Field(
        1, ge=0, description="Timed plans of the reference, three minutes each at hopper; 0 leaves it out."
    )
    beam_width: int | None = Field(None, ge=1, description="Instead of the setting's.")
    horizon: int | None = Field(None, ge=1, description="Instead of the setting's.")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="As planning.precision.")
    gpu_kernels: Literal["torch", "triton"] = Field("torch", description="As planning.gpu_kernels.")
    sweep: bool = Field(False, description="Also time other beam widths, horizons and episodes, and fit the law.")

    @property
    def planning(self) -> PlanningConfig:
        """The search of the setting."""
        _, _, horizon, beam_width = PLANNER_SETTINGS[self.setting]
        return PlanningConfig(
            horizon=self.horizon or horizon,
            beam_width=self.beam_width or beam_width,
            precision=self.precision,
            gpu_kernels=self.gpu_kernels,
        )


class TrainBenchmark(BenchmarkConfig):
    """What is timed."""

    method: Literal["trajectory_transformer", "decision_transformer", "behaviour_cloning"] = Field(
        "trajectory_transformer", description="Whose step; the model and the window are the paper's."
    )
    setting: TrainSetting = Field("hopper", description="Dimensions of observations and actions.")
    device: str = Field("auto", description="cpu, cuda, or auto: cuda where there is one.")
    batch_size: int | None = Field(None, ge=1, description="Windows of a step; null is 256 on CUDA, 64 elsewhere.")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Of our step; as in training.")
    compile: bool = Field(False, description="Compile our step with torch.compile.")
    cuda_graph: bool = Field(False, description="Replay our step as one CUDA graph; as in training.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of both steps (0.1 in the paper).")
    repeats: int = Field(5, ge=1, description="Pairs of measurements; medians are reported.")
    steps: int = Field(3, ge=1, description="Steps of one measurement.")
    clock: Literal["wall", "cpu"] = Field(
        "wall", description="cpu counts this process's own time alone: for one thread on a machine that others use too."
    )
    threads: int | None = Field(None, ge=1, description="torch's CPU threads; null is torch's own choice.")


class ActBenchmark(BenchmarkConfig):
    """What acts."""

    method: Literal["decision_transformer", "behaviour_cloning"] = Field(
        "decision_transformer", description="Whose decision; the model is the paper's. For plans: `planner`."
    )
    setting: TrainSetting = Field("hopper", description="Dimensions of observations and actions.")
    slots: int = Field(10, ge=1, description="Episodes that one call decides for.")
    device: str = Field("cpu", description="cpu or cuda.")
    threads: int | None = Field(None, ge=1, description="Torch's threads; null is torch's own choice.")
    warm_up: int = Field(25, ge=0, description="Steps before the first that is timed; 20 fill the context.")
    steps: int = Field(100, ge=2, description="Steps that are timed.")


class PrepareBenchmark(BenchmarkConfig):
    """What is prepared, and by how many workers."""

    steps: int = Field(1_000_000, ge=1, description="Environment steps, about.")
    workers: tuple[int, ...] = Field(
        (1, 2), min_length=1, description="Numbers of workers to measure, one after the other."
    )
    source: Place | None = Field(
        None,
        description="Folder of a Minari data set whose episodes are repeated with a little noise until there are "
        "enough steps; null makes random walks of Hopper's dimensions in episodes of 480 steps.",
    )
    rounds: int = Field(1, ge=1, description="Measurements of each number of workers; the middle one counts.")
    num_bins: int = Field(100, ge=2, description="Bins per dimension.")
    reference: bool = Field(True, description="Run the reference too; it holds the whole data set in memory.")


class EvaluateBenchmark(BenchmarkConfig):
    """How many actors, and what each of them does."""

    actors: tuple[int, ...] = Field((1, 2), min_length=1, description="Numbers of actors to measure, one by one.")
    episodes_per_actor: int = Field(3, ge=1, description="Episodes that each actor gets, per slot of its batch.")
    steps: int = Field(10, ge=1, description="Environment steps of an episode.")
    batch_size: int = Field(1, ge=1, description="Episodes that one actor plans for in one call.")
    cpus_per_actor: int = Field(1, ge=1, description="CPUs and torch threads of an actor.")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs of an actor; fractions share one.")
    beam_width: int = Field(128, ge=1, description="Beams of the planner.")
    horizon: int = Field(15, ge=1, description="Environment steps planned ahead.")


BENCHMARKS: dict[str, type[BenchmarkConfig]] = {
    "planner": PlannerBenchmark,
    "train": TrainBenchmark,
    "act": ActBenchmark,
    "prepare": PrepareBenchmark,
    "evaluate": EvaluateBenchmark,
}
