"""The projects: a folder with a program `up`, judged by a neighbour's requests and by what the kernel shows."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

from . import check, course


def verb(options):
    """`scripts/chapters project`."""
    if options.action == "list":
        for one in course.projects():
            print(f"{one.word:<8}  {one.title()}")
        return 0
    project = course.project(options.name)
    folder = pathlib.Path(options.folder or project.word).resolve()
    return {"start": start, "check": judge, "solution": solution}[options.action](project, folder, options)


def start(project, folder, _options):
    """A folder of one's own, with the program to be written."""
    if folder.exists():
        raise course.Failure(f"`{folder}` is there already", "scripts/chapters project start NAME FOLDER")
    shutil.copytree(project.folder / "begin", folder)
    if (project.folder / "image").exists():
        shutil.copy(project.folder / "image", folder / "image")
    print(f"{folder}/up is yours to write; what it must do stands in {course.relative(project.page())}\n"
          f"  sudo scripts/chapters project check {project.word} {folder}")  # fmt: skip
    return 0


def solution(project, _folder, _options):
    """The course's own."""
    for path in sorted((project.folder / "solution").iterdir()):
        print(f"==> {course.relative(path)} <==\n{path.read_text(encoding='utf-8')}")
    return 0


def judge(project, folder, options):
    """Makes the image if there is none yet, and has the checks ask."""
    binary = pathlib.Path(options.bin).resolve() if options.bin else check.default_binary()
    if not os.access(folder / "up", os.X_OK):
        raise course.Failure(f"there is no program `{folder}/up`", f"scripts/chapters project start {project.word} {folder}")
    cannot = image(project, folder)
    if cannot:
        found = [{"chapter": 9, "name": "the image", "verdict": "cannot", "text": cannot}]
    else:
        ask = {"MYDOCKER_PROJECT": project.word, "MYDOCKER_PROJECT_FOLDER": str(folder)}
        found = check.findings(binary, 9, lab=ask, test="the_project")
    for one in found:
        one["page"] = "" if one["verdict"] in ("ok", "cannot") else f"{course.relative(project.page())}: The task"
    said = {"md": check.markdown, "json": check.as_json, "junit": check.junit}
    print(said[options.report](found, binary) if options.report in said else text(project, folder, found))
    return 1 if any(one["verdict"] in ("wrong", "not-reached") for one in found) else 0


def image(project, folder):
    """Why there is no image; empty: there is one, or none is needed."""
    make = folder / "image"
    if not (project.folder / "image").exists() or (folder / "image.tar").exists():
        return ""
    if not os.access(make, os.X_OK):
        return f"there is neither `{folder}/image.tar` nor a program `image` that makes it"
    print("making image.tar: once, for a minute or two", file=sys.stderr)
    made = subprocess.run([str(make)], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return "" if made.returncode == 0 else (made.stderr.strip().splitlines() or ["`image` failed"])[-1]


def text(project, folder, found):
    """For a terminal."""
    lines = [f"{project.word}: {folder}", ""]
    for one in found:
        lines.append(f"  {check.WORDS[one['verdict']]:<20} {one['name']}")
        if one["verdict"] != "ok":
            lines += [f"      {line}" for line in one["text"].splitlines()]
            lines += [f"      read {one['page']}"] if one["verdict"] == "wrong" else []
    return "\n".join([*lines, "", check.totals(found)])
