"""Blocks of a document that a script writes: whatever stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""

import re
from pathlib import Path


class Document:
    """
    A Markdown file with such blocks.

    :param path: of the file
    """

    def __init__(self, path: Path):
        self.path = path

    def write(self, name: str, body: str) -> None:
        """
        Replace a block.

        :param name: of the block
        :param body: its new text
        :raises ValueError: if the document has no such block, or has it twice
        """
        text = self.path.read_text()
        pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)"
        text, count = re.subn(pattern, lambda match: f"{match[1]}{body.strip()}\n{match[2]}", text, flags=re.DOTALL)
        if count != 1:
            blocks = re.findall(r"<!-- /(.+?) -->", text)
            raise ValueError(f"{self.path.name} must have one block {name!r}, not {count}; it has {blocks}.")
        self.path.write_text(text)


def code(lines: list[str]) -> str:
    """Lines of printed output as Markdown."""
    return "\n".join(["```text", *lines, "```"])


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))
