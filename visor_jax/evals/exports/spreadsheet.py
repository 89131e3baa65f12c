"""A table as a file of Office Open XML (.xlsx): a zip of a few small XML files.

One sheet, no styles: what VLMEvalKit, which reads such files, needs of it.
"""

import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

# Of a cell: the format has no longer ones.
LONGEST_TEXT = 32_767
_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
# XML knows no names for these.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_AROUND = {
    "[Content_Types].xml": f'<Types xmlns="{_TYPES}">'
    '<Default Extension="rels" ContentType='
    '"application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_KIND}.sheet.main+xml"/>'
    '<Override PartName="/xl/worksheets/sheet1.xml" '
    f'ContentType="{_KIND}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="rId1" '
    f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_RELATIONS}">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" '
    'Target="worksheets/sheet1.xml"/></Relationships>',
}


def spreadsheet(rows: Iterable[Sequence[str | int]]) -> bytes:
    """Returns the file of a table, its first row the names of the columns.

    An empty text is no cell. What XML cannot say stands as "_x000B_".

    Raises:
      ValueError: for a text that is too long for a cell.
    """
    lines = "".join(f"<row>{''.join(map(_cell, row))}</row>" for row in rows)
    sheet = f'<worksheet xmlns="{_MAIN}"><sheetData>{lines}</sheetData></worksheet>'
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in {**_AROUND, "xl/worksheets/sheet1.xml": sheet}.items():
            # Of no time: the same table is the same file.
            packed.writestr(zipfile.ZipInfo(name), (_HEAD + text).encode())
    return content.getvalue()


def _cell(value: str | int) -> str:
    if isinstance(value, int):
        return f"<c><v>{value}</v></c>"
    if len(value) > LONGEST_TEXT:
        raise ValueError(
            f"A text of {len(value)} characters is too long for a cell of a "
            f"spreadsheet, which holds {LONGEST_TEXT}: {value[:40]!r}..."
        )
    if value == "":
        return "<c/>"
    said = _UNPRINTABLE.sub(lambda found: f"_x{ord(found[0]):04X}_", value)
    said = escape(said, {"\r": "&#13;"})
    return f'<c t="inlineStr"><is><t xml:space="preserve">{said}</t></is></c>'
