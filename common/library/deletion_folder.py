"""What deleting from a plain folder removes: the files that the manifest or the Hub client's metadata names, and that metadata."""

from __future__ import annotations

from collections.abc import Iterator

from ..manifest import WORK_FOLDER, ManifestEntry
from ..paths import SafeRoot
from ..uri_records import COMMIT
from . import deletion
from .deletion import DeletionPlan, exists, freed, gone, kept_of, names_in, parents_of, strangers, work_files
from .folders import CLIENT, MANIFEST, METADATA, FolderSource, read_folder
from .hub_cache import model_id
from .records import Model, ModelFile

_CLIENT_TOP = (".cache/huggingface/CACHEDIR.TAG", ".cache/huggingface/.gitignore")
_TREES = ".cache/huggingface/trees"  # the client's copies of listings


def plan_folder(model: Model, *, older_than: str = "") -> DeletionPlan:
    """The plan for all files of a model's source; with older_than (a commit) only for those that are of another commit.

    Raises NotFound when nothing is there any more, OSError.
    """
    with SafeRoot(model.path) as root:
        folder = read_folder(root)
        source = next(
            (each for uri, each in folder.sources.items() if model_id(str(root.path), uri) == model.model_id), None
        )
        if source is None:
            raise gone(model)
        others = [each for each in folder.sources.values() if each is not source and each.files]
        going = [file for file in source.files if not older_than or older_than not in file.commits]
        named = {file.path for file in going if file.state != "changed"}
        files = sorted(named) + [path for file in sorted(named) for path in _metadata(file)]
        is_last = not others and len(named) == len(source.files)
        work, work_folders = work_files(root, WORK_FOLDER)
        if is_last:
            trees = [name for name in names_in(root, _TREES) if COMMIT.fullmatch(name.removesuffix(".json"))]
            files += [*work, *_CLIENT_TOP, *(f"{_TREES}/{name}" for name in trees), MANIFEST]
        files = [path for path in files if exists(root, path)]
        folders = parents_of(
            [*files, f"{CLIENT}/x", f"{_TREES}/x", f"{WORK_FOLDER}/jobs/x", f"{WORK_FOLDER}/partial/x"]
        )
        kept = kept_of(_kept(root, going, others, folders, set(files), work_folders))
        frees = freed(root, files)
        uri = source.uri

        def drops(entry: ManifestEntry) -> bool:
            return entry.source == uri and entry.path in named

        return DeletionPlan(
            model=model,
            base=str(root.path),
            files=tuple(files),
            folders=tuple(folders),
            frees=frees,
            kept=kept[0],
            kept_more=kept[1],
            drops=drops if uri else None,
            source=uri if len(named) == len(source.files) else "",
            locks=(*work, *(path for path in files if path.startswith(CLIENT) and path.endswith(".lock"))),
        )


def _metadata(path: str) -> Iterator[str]:
    yield f"{CLIENT}/{path}{METADATA}"
    yield f"{CLIENT}/{path}.lock"


def _kept(
    root: SafeRoot,
    going: list[ModelFile],
    others: list[FolderSource],
    folders: list[str],
    files: set[str],
    work_folders: list[str],
) -> Iterator[tuple[str, str]]:
    for file in going:
        if file.state == "changed":
            yield file.path, f"it was changed since it was fetched: it has {file.bytes} bytes"
    for other in others:
        yield from (
            (file.path, f"it is of {other.uri or 'the Hub client'}") for file in other.files[: deletion.KEPT_MAX]
        )
    known = {file.path for file in going} | {file.path for other in others for file in other.files}
    known |= set(parents_of(known))
    ours = {*work_folders, WORK_FOLDER, ".cache", ".cache/huggingface", CLIENT, _TREES}
    for path in strangers(root, ["", *folders], files):
        if path not in known and path not in ours and not path.startswith((f"{WORK_FOLDER}/", f"{CLIENT}/")):
            yield path, "nothing says that it was fetched"
