"""A figure as SVG inside an HTML page: text stays text, colours follow the page's light or dark scheme."""

import io
import re
import warnings
from xml.etree import ElementTree

from compress.plots import roles
from compress.plots.style import GREY

INK = "#1a1a1b"  # of titles and labels; a colour that nothing else has, so that it can be told apart
GRID = "#e4e4e4"
# The page declares these variables for both schemes. White and black text stands on coloured cells and stays.
VARIABLES = {INK: "ink", GREY.lower(): "soft", GRID: "grid", "#ffffff": "paper",
             roles.PALE.lower(): "pale",
             **{colour.lower(): f"neutral{i}" for i, colour in enumerate(roles.NEUTRALS)},
             **{colour.lower(): f"role-{role}" for role, (colour, _) in roles.LOOKS.items() if role != "other"}}
STYLE = {"text.color": INK, "axes.labelcolor": INK, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
         "svg.fonttype": "none"}  # to draw and to save under
NAMESPACE = "{http://www.w3.org/2000/svg}"


def _plain(name):
    """A tag or attribute without its namespace, as HTML takes it."""
    return name.rpartition("}")[2]


def _recoloured(style, on_cell):
    """A style attribute whose colours are the page's variables."""
    def variable(match):
        colour = match[0].lower()
        keep = colour not in VARIABLES or (on_cell and colour in ("#ffffff", "#000000"))
        return match[0] if keep else f"var(--{VARIABLES[colour]})"
    style = re.sub(r"#[0-9a-fA-F]{6}\b", variable, style)
    return re.sub(r"'DejaVu Sans'[^;]*?(?=;|$)", "var(--font)", style)


def _clean(element, slug, tips):
    """Makes an element and all below it fit for a page, in place."""
    element.tag, tip = _plain(element.tag), tips.get(element.get("id"))
    attributes = {}
    for name, value in element.attrib.items():
        name = _plain(name)  # noqa: PLW2901 (the same thing)
        if name == "id":
            value = f"{slug}-{value}"  # noqa: PLW2901
        elif name == "style":
            value = _recoloured(value, element.tag == "text")  # noqa: PLW2901
        elif name == "href" and value.startswith("#"):
            value = f"#{slug}-{value[1:]}"  # noqa: PLW2901
        attributes[name] = re.sub(r"url\(#", f"url(#{slug}-", value)
    element.attrib.clear()
    element.attrib.update(attributes)
    for child in list(element):
        if child.tag in (f"{NAMESPACE}metadata", f"{NAMESPACE}style"):
            element.remove(child)
        else:
            _clean(child, slug, tips)
    if tip:
        title = ElementTree.Element("title")
        title.text = tip
        element.insert(0, title)


def inline_svg(figure, slug, title, tips=None):
    """The SVG element of a figure, to be put into HTML as it is.

    Args:
        figure: a matplotlib Figure, drawn under STYLE.
        slug: letters, digits and hyphens; begins every id, so that no two figures of a page share one.
        title: what a screen reader says.
        tips: {gid: text that shows where a pointer rests on the artist}.

    Returns:
        str; all text in it is escaped, and it has no address of anything outside it.
    """
    import matplotlib

    target = io.BytesIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": slug}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(target.getvalue())
    _clean(root, slug, tips or {})
    width, height = (float(v) for v in root.get("viewBox").split()[2:])
    root.attrib.clear()
    root.attrib.update({"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title,
                        "style": f"--width: {width:g}"})
    return ElementTree.tostring(root, encoding="unicode")
