"""Reading CSV and Excel: every cell as it stands, every line number right, everything bounded."""

from __future__ import annotations

import zipfile
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tools.importing import reading
from tools.importing.expressions import Expression, Formats, ValueProblem, minor_digits, rfc3339, same_name
from tools.importing.reading import FileShape, ReadingError, Row, read_table

TORONTO = Formats(ZoneInfo("America/Toronto"), "CAD", ["%m/%d/%Y"], ["%I:%M:%S %p"])


def read(folder: Path, content: str | bytes, shape: FileShape | None = None) -> reading.Table:
    shape = shape or FileShape("rows.csv")
    (folder / shape.path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(folder, "rows", shape)


def workbook(path: Path, rows: list[list[object]], sheet: str = "Receipts") -> None:
    """A minimal .xlsx; a `date` becomes a cell with a date format, numbers become numbers."""

    def cell(value: object) -> str:
        if isinstance(value, date):
            return f'<c s="1"><v>{(value - date(1899, 12, 30)).days}</v></c>'
        if isinstance(value, int | float):
            return f"<c><v>{value!r}</v></c>"
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>' if value != "" else "<c/>"

    content = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    kinds = "http://schemas.openxmlformats.org/package/2006/content-types"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{kinds}"><Default Extension="xml" ContentType="application/xml"/>'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/styles.xml" ContentType="{kind}.styles+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}"><Relationship Id="r1" Type="{office}/officeDocument"'
        ' Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="{sheet}" sheetId="1"'
        ' r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}"><Relationship Id="r1"'
        f' Type="{office}/worksheet" Target="worksheets/sheet1.xml"/><Relationship Id="r2" Type="{office}/styles"'
        ' Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs><xf numFmtId="0"/><xf numFmtId="14"'
        ' applyNumberFormat="1"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{content}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)


def test_lines_and_cells(tmp_path: Path) -> None:
    table = read(tmp_path, '\ufeffCode, Name \nA1,"two\nlines"\n,\n\nA2, x \n')
    assert table.columns == ["Code", "Name"]
    assert table.rows == [
        Row("rows", 2, {"Code": "A1", "Name": "two\nlines"}),
        Row("rows", 6, {"Code": "A2", "Name": "x"}),
    ]
    assert not table.bad_rows


def test_a_row_of_another_shape_is_bad_and_the_others_are_read(tmp_path: Path) -> None:
    table = read(tmp_path, "a,b\n1,2\n1\n1,2,3\n1,2,\n")
    assert [(bad.line, bad.reason) for bad in table.bad_rows] == [
        (3, "has 1 cells, the header has 2"),
        (4, "has 3 cells, the header has 2"),
    ]
    assert [row.line for row in table.rows] == [2, 5]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "has no header"),
        (b",,\n1,2,3\n", "has no header"),
        (b"a,b,a\n", "names twice: 'a'"),
        (b"a\n\xff\xfe\n", "is not utf-8-sig at byte"),
        (b'a\n"open\n', "unexpected end of data"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes, expected: str) -> None:
    with pytest.raises(ReadingError, match=expected):
        read(tmp_path, content)


def test_other_encodings_and_delimiters(tmp_path: Path) -> None:
    shape = FileShape("rows.csv", encoding="gb18030", delimiter=";", header_line=2)
    table = read(tmp_path, "导出\n姓名;金额\n王芳;12,50\n".encode("gb18030"), shape)
    assert table.rows == [Row("rows", 3, {"姓名": "王芳", "金额": "12,50"})]
    with pytest.raises(ReadingError, match="unknown encoding"):
        read(tmp_path, "a\n", FileShape("rows.csv", encoding="nothing"))


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_ROWS", 2)
    monkeypatch.setattr(reading, "MOST_FILE_BYTES", 200)
    monkeypatch.setattr(reading, "MOST_CELL_CHARACTERS", 5)
    with pytest.raises(ReadingError, match="more than 2 rows"):
        read(tmp_path, "a\n1\n2\n3\n")
    with pytest.raises(ReadingError, match="201 bytes, at most 200"):
        read(tmp_path, "a\n" + "1" * 199)
    assert read(tmp_path, "a\n123456\n").bad_rows[0].reason == "has a cell of more than 5 characters"


@pytest.mark.parametrize("path", ["../secret.csv", "missing.csv", "."])
def test_only_files_of_the_folder(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(ReadingError):
        read_table(folder, "rows", FileShape(path))


def test_excel_gives_dates_and_exact_numbers(tmp_path: Path) -> None:
    header: list[object] = ["Date", "Amount", "Tax", "Client", ""]
    workbook(
        tmp_path / "till.xlsx", [header, [date(2018, 6, 12), 50.4, 4.032, "LEL01"], [date(2018, 6, 13), -50, 0, ""]]
    )
    table = read_table(tmp_path, "till", FileShape("till.xlsx", sheet="Receipts"))
    assert table.columns == ["Date", "Amount", "Tax", "Client"]
    assert table.rows[0].cells == {"Date": date(2018, 6, 12), "Amount": "50.4", "Tax": "4.032", "Client": "LEL01"}
    assert table.rows[1] == Row("till", 3, {"Date": date(2018, 6, 13), "Amount": "-50", "Tax": "0", "Client": ""})
    assert TORONTO.day(table.rows[0].cells["Date"], "date") == date(2018, 6, 12)


def test_excel_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workbook(tmp_path / "till.xlsx", [["a"], ["1"]])
    with pytest.raises(ReadingError, match="has no sheet 'Other'; it has: Receipts"):
        read_table(tmp_path, "till", FileShape("till.xlsx", sheet="Other"))
    (tmp_path / "text.xlsx").write_text("a,b\n")
    with pytest.raises(ReadingError, match="cannot be read as a workbook"):
        read_table(tmp_path, "till", FileShape("text.xlsx"))
    monkeypatch.setattr(reading, "MOST_UNPACKED_BYTES", 100)
    with pytest.raises(ReadingError, match="bytes unpacked"):
        read_table(tmp_path, "till", FileShape("till.xlsx"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("115809.03", "115809.03"),
        ("1,234.50", "1234.50"),
        ("1,234,567", "1234567"),
        ("-50", "-50"),
        ("(50.00)", "-50.00"),
        ("$ 82", "82"),
        ("￥1,000.5", "1000.5"),
        ("+7", "7"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    assert TORONTO.decimal(text, "amount") == Decimal(expected)


@pytest.mark.parametrize("text", ["", "1,5", "12,34.5", "1.2.3", "1e3", "NaN", "abc", "1-", "--1", "9" * 40])
def test_what_is_not_a_number(text: str) -> None:
    with pytest.raises(ValueProblem, match=r"amount: .* is not a number"):
        TORONTO.decimal(text, "amount")


def test_numbers_of_the_continent() -> None:
    formats = Formats(ZoneInfo("Europe/Berlin"), "EUR", decimal_point=",", thousands=".")
    assert formats.decimal("1.234,50 €", "amount") == Decimal("1234.50")
    with pytest.raises(ValueProblem):
        formats.decimal("1234.50", "amount")


def test_minor_units_are_exact_or_rounded_as_told() -> None:
    assert TORONTO.minor_units(Decimal("50.4"), "amount") == 5040
    with pytest.raises(ValueProblem, match=r"amount: 4\.032 has more digits than CAD has"):
        TORONTO.minor_units(Decimal("4.032"), "amount")
    assert TORONTO.minor_units(Decimal("2.345"), "tax", "half_up") == 235
    assert TORONTO.minor_units(Decimal("-2.345"), "tax", "half_up") == -235
    assert TORONTO.minor_units(Decimal("2.345"), "tax", "half_even") == 234
    assert [minor_digits(code) for code in ("JPY", "CNY", "KWD")] == [0, 2, 3]


def test_days_times_and_the_clocks() -> None:
    assert TORONTO.day("03/14/2018", "date") == date(2018, 3, 14)
    assert TORONTO.clock("3:50:00 PM", "time") == time(15, 50)
    assert TORONTO.clock("12:00", "time") == time(12)
    assert rfc3339(TORONTO.moment(date(2018, 3, 14), time(15, 50), "date")) == "2018-03-14T19:50:00Z"
    assert rfc3339(TORONTO.moment(date(2018, 1, 14), time(15, 50), "date")) == "2018-01-14T20:50:00Z"
    assert rfc3339(TORONTO.moment(date(2018, 11, 4), time(1, 30), "date")) == "2018-11-04T05:30:00Z"
    with pytest.raises(ValueProblem, match=r"clocks went forward, there was no 02:30"):
        TORONTO.moment(date(2018, 3, 11), time(2, 30), "date")
    with pytest.raises(ValueProblem, match=r"'14\.03\.2018' is not a date as %m/%d/%Y"):
        TORONTO.day("14.03.2018", "date")
    with pytest.raises(ValueProblem, match="'25:00' is not a time"):
        TORONTO.clock("25:00", "time")


def test_expressions() -> None:
    row = Row("rows", 2, {"Code": "A1", "Name": "", "Kind": "cut"})
    assert Expression(column="Code").read(row) == "A1"
    assert Expression(text="{Code} / {Kind}").read(row) == "A1 / cut"
    assert Expression(column="Name", otherwise="{Code}").read(row) == "A1"
    assert Expression(column="Kind", values={"cut": "60"}).read(row) == "60"
    assert Expression(column="Kind", values={"cut": ""}, otherwise="none").read(row) == "none"
    assert Expression(column="Name", otherwise="{Kind} {Code}").columns == ["Name", "Kind", "Code"]


def test_names_that_are_the_same() -> None:
    assert same_name("  PO hydrate sh  250ml ") == same_name("po Hydrate sh 250ML") != same_name("PO hydrate 250ml")
