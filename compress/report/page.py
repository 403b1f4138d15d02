"""One HTML page that needs nothing beside it: sections of notes, figures and tables, filled into page.html."""

import base64
import dataclasses
import hashlib
import re
import urllib.parse
from pathlib import Path

from compress.plots import style
from compress.report.svg import inline_svg
from compress.storage.files import replacing

MOST_BYTES = 256 * 2**20  # of a page before, that is read for its links


@dataclasses.dataclass
class Figure:
    """A matplotlib figure with its name as a file, what a screen reader says, and texts of single artists."""

    slug: str
    title: str
    figure: object
    tips: dict = dataclasses.field(default_factory=dict)

    @property
    def wide(self):
        """Whether it needs a page's whole width."""
        return self.figure.get_figwidth() > 8


@dataclasses.dataclass
class Section:
    """A part of the page.

    Attributes:
        slug: its id.
        heading: of the section.
        parts: (kind, content) each: ('text', str), ('heading', str), ('figures', [Figure]), ('table',
            report_tables.Table), ('note', str), ('list', [str]), ('runs', [(name, kind, facts, flags)]), or
            ('fold', str) and ('end of fold', None) around what is shown once its name is clicked; in the order in which
            they are shown.
    """

    slug: str
    heading: str
    parts: list

    @property
    def figures(self):
        """All figures of the section."""
        return [figure for kind, content in self.parts if kind == "figures" for figure in content]


def save_figures(sections, folder, progress=iter):
    """Writes every figure as PNG.

    Args:
        sections: list of Section.
        folder: of the files; it exists.
        progress: wraps the range of figures.

    Returns:
        {slug: SVG text}.

    Raises:
        InputError: a file can't be written.
    """
    figures, drawn = [figure for section in sections for figure in section.figures], {}
    for i in progress(range(0, len(figures), 1)):
        entry = figures[i]
        entry.figure.draw_without_rendering()
        entry.figure.set_layout_engine("none")  # found once; both formats would look for it again
        style.save_figure(entry.figure, Path(folder) / f"{entry.slug}.png")
        drawn[entry.slug] = inline_svg(entry.figure, entry.slug, entry.title, entry.tips)
    return drawn


def render(sections, drawn, **words):
    """The page.

    Args:
        sections: list of Section.
        drawn: {slug of a figure: SVG text}, from `save_figures`.
        words: what else page.html asks for: root, made, cards and their rule, folder.

    Returns:
        str; every text is escaped, and no address in it leads outside.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # the page allows this one script by its checksum: a text that slipped through the escaping could not run
    environment.filters["csp_hash"] = lambda script: base64.b64encode(
        hashlib.sha256(str(script).encode()).digest()
    ).decode()
    environment.filters["breakable"] = _breakable
    environment.filters["address"] = urllib.parse.quote
    svg = {slug: markupsafe.Markup(content) for slug, content in drawn.items()}  # inline_svg escapes
    page = environment.get_template("page.html").render(sections=sections, svg=svg, **words)
    return re.sub(r"\n\s*\n", "\n", page)


def _breakable(name):
    """A name that a narrow column may break behind its slashes and commas, before it breaks a word."""
    import markupsafe

    return markupsafe.Markup(re.sub("([/,])", r"\1<wbr>", str(markupsafe.escape(name))))  # escaping makes none of these


def write(path, page):
    """Writes the page, whole or not at all. Raises InputError where it can't be written."""
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def linked_figures(path):
    """Names without .png of the figures that a page of `render` at this path links; none of another page."""
    try:
        page = path.read_text(encoding="utf-8") if path.stat().st_size < MOST_BYTES else ""
    except (OSError, ValueError):
        return set()
    folder = re.escape(urllib.parse.quote(path.with_suffix("").name))
    links = re.findall(rf'<figcaption><a href="{folder}/([a-z0-9-]+)\.png">PNG<', page)
    return set(links) if '<meta name="generator" content="report.py">' in page[:500] else set()
