"""Find a Debian package that `launch/get_voices.sh` or `dpkg -x` has unpacked."""

from pathlib import Path

from sir_jax.errors import UserError

# The sizes and paths of a package's files, which `launch/get_voices.sh` writes beside them.
LISTING = ".files"
_REMEDY = "run: bash launch/get_voices.sh"


def package_part(folder: Path, package: str, part: str) -> Path:
    """Return a folder of an unpacked package.

    Args:
      folder: holds the package's folder, or what is in it.
      package: name of the package.
      part: path inside of the package, such as 'usr/share/klettres'.

    Raises:
      UserError: the package is not there, or is half unpacked.
    """
    own = folder / package
    if own.is_dir():
        check_whole(own, package)
        if not (own / part).is_dir():
            raise UserError(
                f"{own}: half unpacked, it has no {part}; remove it and {_REMEDY} {folder}"
            )
        return own / part
    if (folder / part).is_dir():
        check_whole(folder, package)
        return folder / part
    raise UserError(f"{folder}: holds no package {package}; {_REMEDY} {folder} {package}")


def check_whole(root: Path, package: str) -> None:
    """See that an unpacked package has all of its files, where it says which they are.

    Raises:
      UserError: it has not.
    """
    listing = root / LISTING
    if not listing.is_file():
        return
    lines = listing.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    entries = [line.split(" ", 1) for line in lines]
    lost = [path for size, path in entries if _size(root / path) != int(size)]
    if lost:
        raise UserError(
            f"{root}: half unpacked, {len(lost):,} of {len(entries):,} files are missing or cut, "
            f"such as {lost[0]}; remove it and {_REMEDY} {root.parent} {package}"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
