"""The hf_transfer library called directly: `python hf_transfer_client.py LIST THREADS`, LIST with lines of URL, tab, file."""

import sys
from concurrent.futures import ThreadPoolExecutor

from hf_transfer import download  # type: ignore[import-not-found]  # a compiled module without type information

CONNECTIONS = 16
RANGE_BYTES = 10 << 20


def fetch(line: str) -> None:
    url, file = line.rstrip("\n").split("\t")
    download(url, file, CONNECTIONS, RANGE_BYTES)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as listing, ThreadPoolExecutor(int(sys.argv[2])) as pool:
        list(pool.map(fetch, listing))
