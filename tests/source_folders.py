"""Tiny hand-written source folders in the formats of the adapters."""

import json
import zipfile
from pathlib import Path


def write(folder: Path, **files: str) -> Path:
    """Write files; in a name `__` stands for the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return folder


def write_zip(path: Path, files: dict[str, str]) -> None:
    """Write a zip file of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_sheet(path: Path, rows: list[list[str | int]]) -> None:
    """Write the least workbook that a spreadsheet reader accepts."""
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    links = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"

    def cell(value: str | int) -> str:
        return f"<c><v>{value}</v></c>" if isinstance(value, int) else f'<c t="inlineStr"><is><t>{value}</t></is></c>'

    body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    write_zip(
        path,
        {
            "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType='
            '"application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" '
            f'ContentType="{kind}.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" '
            f'ContentType="{kind}.worksheet+xml"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
            f'Type="{links}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{links}"><sheets><sheet name="tags" sheetId="1" '
            'r:id="r1"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
            f'Type="{links}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>',
        },
    )


def movielens(folder: Path) -> Path:
    """Write three films and four ratings."""
    return write(
        folder,
        movies__csv='movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n2,"Heat, The (1995)",Action\n'
        "3,Nothing (2000),(no genres listed)\n",
        ratings__csv="userId,movieId,rating,timestamp\n1,1,4.0,30\n1,2,3.5,20\n2,1,0.5,10\n2,3,5.0,40\n",
        links__csv="movieId,imdbId,tmdbId\n1,01,862\n2,02,\n3,03,900\n",
    )


def goodbooks(folder: Path) -> Path:
    """Write two books, one rated twice by one user; ids of the two id columns cross over."""
    write_zip(
        folder / "books.csv.zip",
        {
            "books.csv": 'id,book_id,title,authors\n1,2,Dune,"Frank Herbert, Someone"\n2,1,Emma,Jane Austen\n',
            "__MACOSX/._books.csv": "junk",
        },
    )
    write_zip(folder / "ratings.csv.zip", {"ratings.csv": "book_id,user_id,rating\n1,7,5\n1,7,4\n2,7,3\n2,8,1\n"})
    write_sheet(folder / "top1_Tags.xlsx", [["goodreads_book_id", "tag", "Sum of count"], [2, "sci-fi", 9]])
    with_romance = [["goodreads_book_id", "tag", "Sum of count"], [2, "sci-fi", 9], [1, "romance", 5]]
    write_sheet(folder / "top1_Tags.xlsx", with_romance)
    return folder


def lastfm(folder: Path) -> Path:
    """Write two artists; the second part of the assignments decides a top tag, and a listener has a tag alone."""
    head = "userID\tartistID\ttagID\tday\tmonth\tyear\n"
    first, second = ["5 1 1", "5 1 4", "6 1 2", "6 2 3"], ["7 1 2", "8 1 1", "8 1 2", "7 9 1"]
    parts = [
        head + "".join("\t".join([*row.split(), "1", "1", "2009"]) + "\n" for row in part) for part in (first, second)
    ]
    write(
        folder,
        artists__dat='id\tname\turl\tpictureURL\n1\tMALICE "M" MIZER\tu\tp\n2\tBeyoncé\tu\tp\n',
        user_artists__dat="userID\tartistID\tweight\n5\t1\t100\n5\t2\t1\n6\t2\t10\n",
        user_taggedartists__dat=parts[0],
        user_taggedartists_2__dat=parts[1],
    )
    names = "tagID\ttagValue\n1\tgothic\n2\tvisual kei\n3\tpop français\n4\tmy concert\n"
    (folder / "tags.dat").write_bytes(names.encode("latin-1"))
    return folder


def queryner(folder: Path) -> Path:
    """Write one query in each part."""
    labels = {"0": "O", "1": "B-color", "2": "I-color"}
    write(folder, label_map__json=json.dumps(labels))
    parts = {"train": ["red", "mug"], "validation": ["dark", "blue"], "test": ["mug"]}
    numbers = {"train": [1, 0], "validation": [1, 2], "test": [0]}
    for part, tokens in parts.items():
        examples = {"examples": [{"tokens": tokens, "ner_tags": numbers[part]}]}
        (folder / f"{part}.json").write_text(json.dumps(examples), encoding="utf-8")
    return folder
