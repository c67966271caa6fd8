"""Pages of reports: a template becomes one HTML file, without scripts and requests."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model.files import new_file


def write_page(template: Path, out: Path, **values: object) -> None:
    """Writes the page that `template` makes of these values to `out`.

    A value that the template names and that is not given is an error, and text is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template.name).render(values)
    with new_file(out) as beside:
        beside.write_text(page, encoding="utf-8")
