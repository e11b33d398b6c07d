"""Display: an X server without a screen, and pictures of what it would show."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.programs import started

WIDTH, HEIGHT = 1024, 768
SIZE = f"{WIDTH}x{HEIGHT}"


@dataclass(frozen=True, slots=True)
class Picture:
    """All pixels of a display, 4 bytes each: blue, green, red, nothing."""

    pixels: bytes = field(repr=False)

    @property
    def colours(self) -> int:
        """How many different colours are in it; 1 is an empty display."""
        return len(set(memoryview(self.pixels).cast("I")))

    def save(self, path: Path) -> Path:
        """Write it as a PNG, to be looked at."""
        rows = bytearray()
        for at in range(0, len(self.pixels), 4 * WIDTH):
            row = bytearray(3 * WIDTH)
            for colour in range(3):
                row[colour::3] = self.pixels[at + 2 - colour : at + 4 * WIDTH : 4]
            rows += b"\0" + row
        head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(
                struct.pack(">I", len(data))
                + kind
                + data
                + struct.pack(">I", zlib.crc32(kind + data))
                for kind, data in chunks
            )
        )
        return path


class Display:
    """An X server. `display` runs it; `name` is what clients ask for."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.name = ""
        self._frame_buffer = directory / "Xvfb_screen0"

    def picture(self) -> Picture:
        """What is to be seen now. The file is an XWD dump: head, colour map, pixels."""
        dump = self._frame_buffer.read_bytes()
        words = struct.unpack_from(">25I", dump)
        head_bytes, width, height, pixel_bits, colours = (words[at] for at in (0, 4, 5, 11, 19))
        assert (width, height, pixel_bits) == (WIDTH, HEIGHT, 32)
        begin = head_bytes + 12 * colours
        return Picture(dump[begin : begin + 4 * WIDTH * HEIGHT])


@asynccontextmanager
async def display(directory: Path) -> AsyncIterator[Display]:
    """Run an X server inside the block. It takes a free display number and tells it."""
    shown = Display(directory)
    options = f"-screen 0 {SIZE}x24 -displayfd 1 -nolisten tcp -noreset -nocursor"
    arguments = [*options.split(), "-fbdir", str(directory)]
    async with started("Xvfb", *arguments, log=directory / "Xvfb.log") as server:
        number = (await server.until_says(r"^(\d+)$"))[1]
        shown.name = f":{number}"
        yield shown
