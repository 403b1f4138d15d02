"""A figure as SVG inside an HTML page: text stays text, ids are the figure's own, artists have tips.

Colours stay as they were drawn, for a light page; page.html inverts them under a dark scheme.
"""

import io
import re
import warnings
from xml.etree import ElementTree

STYLE = {"svg.fonttype": "none"}  # to save under: text stays text
WIDTH = "width"  # variable of page.html, in points
NAMESPACE = "{http://www.w3.org/2000/svg}"


def _plain(name):
    """A tag or attribute without its namespace, as HTML takes it."""
    return name.rpartition("}")[2]


def _clean(element, slug, tips):
    """Makes an element and all below it fit for a page that holds other figures, in place.

    Ids, and the references to them, begin with the slug; metadata and style sheets, which would be the page's, go.
    """
    element.tag, tip = _plain(element.tag), tips.get(element.get("id"))
    attributes = {}
    for name, value in element.attrib.items():
        name, value = _plain(name), re.sub(r"url\(#", f"url(#{slug}-", value)  # noqa: PLW2901 (the same thing)
        if name == "id":
            value = f"{slug}-{value}"  # noqa: PLW2901
        elif name == "href" and value.startswith("#"):
            value = f"#{slug}-{value[1:]}"  # noqa: PLW2901
        attributes[name] = value
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
        figure: a matplotlib Figure.
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
    root.attrib.update(
        {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title, "style": f"--{WIDTH}: {width:g}"}
    )
    return ElementTree.tostring(root, encoding="unicode")
