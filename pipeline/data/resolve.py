"""From what the configuration names to sources that can be read: globs, braces, roots, downloads."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import minari
from minari.storage.datasets_root_dir import get_dataset_path
from pyarrow import fs

from pipeline.data.config import DataConfig, SourceConfig
from pipeline.data.d4rl_source import D4rlSource
from pipeline.data.minari_source import MinariSource
from pipeline.data.sources import Source
from pipeline.data.storage import is_remote, join
from pipeline.errors import DataError, StorageError

_METADATA = "data/metadata.json"
_STEPS = "data/main_data.hdf5"
HUB_ID = re.compile(r"([\w.-]+/)+[\w.-]+-v\d+")
"""What a data set of the hub is called, namespace/name-vN; nothing else is looked for there."""


def resolve_sources(config: DataConfig, collected: SourceConfig) -> list[tuple[Source, SourceConfig]]:
    """Returns the sources that `config.sources` names, in its order, the matches of one glob by name.

    Args:
        config: The configuration.
        collected: The run's own behaviour, taken where the configuration names no sources.

    Raises:
        DataError: Nothing matches, a data set cannot be read or fetched, or one is named twice.
        StorageError: A root cannot be listed, or Minari's own cannot be made.
    """
    found: list[tuple[Source, SourceConfig]] = []
    for entry in config.sources or (collected,):
        for pattern in [entry.id] if _is_file(entry.id) else expand_braces(entry.id):
            found += [(source, entry) for source in _matching(pattern, entry, config)]
    names = [source.name for source, _ in found]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise DataError(f"data.sources names {doubles} more than once; expected different data sets.")
    return found


def expand_braces(pattern: str) -> list[str]:
    """Returns the texts that `{a,b}` stands for, from left to right; nested braces are not known."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [text for choice in match.group(1).split(",") for text in expand_braces(before + choice + after)]


def _matching(pattern: str, entry: SourceConfig, config: DataConfig) -> Sequence[Source]:
    options = config.observation_keys, config.observation_columns, config.max_episode_steps
    if pattern.endswith((".hdf5", ".h5")):
        return [D4rlSource.open(path, *options) for path in _files(pattern)]
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise DataError(
            f"data.sources names {pattern!r}, a path; expected the id of a data set, below its root. For a folder "
            "/path/to/space/name-v0 give {root: /path/to, id: space/name-v0}."
        )
    root = entry.root or _minari_root()
    names = _dataset_ids(root, pattern)
    without = sorted({*_dataset_ids(root, pattern, _STEPS)} - {*names})
    if without:
        raise DataError(
            f"{without[0]} in {root} has {_STEPS} but no {_METADATA}: Minari before 0.5 wrote it, or its copy was "
            "broken off; expected both. Fetch a newer version, or load it with the Minari that wrote it and write "
            "its episodes with minari.create_dataset_from_buffers of 0.5."
        )
    if not names and entry.root is None and config.download and HUB_ID.fullmatch(pattern):
        _download(pattern)
        names = [pattern]
    if not names:
        raise DataError(_nothing_found(root, pattern))
    return [MinariSource.open(name, join(root, name), *options) for name in names]


def _minari_root() -> str:
    """Returns where Minari keeps data sets, a folder that it makes where there is none.

    Raises:
        StorageError: It cannot be made.
    """
    try:
        return str(get_dataset_path())
    except OSError as error:
        raise StorageError(
            f"Minari's folder of data sets cannot be made ({error}); expected one that can be written, or is there. "
            "Set MINARI_DATASETS_PATH, or the root of each of data.sources."
        ) from error


def _files(pattern: str) -> list[str]:
    """Returns the D4RL files that a path, a URI or a pattern of paths names."""
    if is_remote(pattern) or _is_file(pattern):
        return [pattern]
    paths = sorted(glob.glob(_stars_alone(pattern.removeprefix("file://")), recursive=True))  # noqa: PTH207
    if not paths:
        raise DataError(f"data.sources names '{pattern}', where there is no file; expected a D4RL HDF5 file.")
    return paths


def _is_file(pattern: str) -> bool:
    return Path(pattern.removeprefix("file://")).is_file()


def _stars_alone(pattern: str) -> str:
    """Returns a glob in which only * and ? stand for something: a [ is part of a name."""
    return pattern.replace("[", "[[]")


def _dataset_ids(root: str, pattern: str, file: str = _METADATA) -> list[str]:
    """Returns the ids of the data sets below `root` that match and have `file`, sorted."""
    if not is_remote(root):
        folder = Path(root.removeprefix("file://"))
        found = folder.glob(f"{_stars_alone(pattern)}/{file}")
        return sorted(path.parent.parent.relative_to(folder).as_posix() for path in found)
    try:
        filesystem, base = fs.FileSystem.from_uri(root)
        if not {*"*?"} & {*pattern}:
            there = filesystem.get_file_info(f"{base}/{pattern}/{file}").type == fs.FileType.File
            return [pattern] if there else []
        files = filesystem.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    except (OSError, ValueError) as error:
        raise StorageError(f"root is {root!r}; expected a URI that pyarrow can list ({error}).") from error
    ids = [
        info.path.removeprefix(f"{base}/").removesuffix(f"/{file}") for info in files if info.path.endswith(f"/{file}")
    ]
    # A star stays within one part of the id, as it does in file names.
    expression = re.compile(re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))
    return sorted(name for name in ids if expression.fullmatch(name))


def _download(dataset_id: str) -> None:
    """Fetches a data set from the Minari hub.

    Raises:
        DataError: No such data set, no network, or no client for the hub.
    """
    try:
        minari.download_dataset(dataset_id)
    # Whatever the hub's client raises; its own exceptions are not importable where it is not installed.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"data.sources names {dataset_id!r}, which is not in {get_dataset_path()} and could not be fetched from "
            f"the Minari hub ({type(error).__name__}: {reason}); expected a data set that is there. On a machine with "
            f"a network run: pip install 'minari[hdf5,hf]' && minari download {dataset_id}, then copy its folder here "
            "below MINARI_DATASETS_PATH."
        ) from error


def _nothing_found(root: str, pattern: str) -> str:
    there = _dataset_ids(root, "**") if not is_remote(root) else _dataset_ids(root, "*/*")
    listing = ", ".join(there[:20]) or "none"
    return (
        f"data.sources names {pattern!r}, which matches nothing in {root}; expected the id of a data set there: "
        f"{listing}. Set the source's root, or MINARI_DATASETS_PATH."
    )
