"""Commands that look at single files of a project."""

import sys

from worker_space_local.cli.listing import choose_project
from worker_space_local.cli.screen import clock, say, size, table
from worker_space_local.client import Client, find_connection
from worker_space_local.project_files import ProjectFiles


def list_folder(project: str | None, user: str, folder: str, *, recursive: bool) -> None:
    """Print the files and folders of a folder."""
    with Client(find_connection(user)) as client:
        project = choose_project(client, project)
        with ProjectFiles(client, project) as files:
            rows = [
                (f"{entry['path']}/", "", "")
                if entry.get("kind") == "folder"
                else (str(entry["path"]), size(int(entry["size"])), clock(entry.get("modified_at")))
                for entry in files.listing(folder, recursive=recursive)
            ]
    if rows:
        table(("PATH", "SIZE", "CHANGED"), rows)
    else:
        where = f"no folder {folder}" if folder.strip("/") else "no files"
        say(f"project {project} has {where}: send some with `worker-space push DIR`")


def show_file(project: str | None, user: str, path: str) -> None:
    """Write a file's bytes to the standard output, as they are."""
    with Client(find_connection(user)) as client, ProjectFiles(client, choose_project(client, project)) as files:
        sys.stdout.flush()
        out = sys.stdout.buffer
        files.fetch(path, files.head(path), out.write, lambda count: None)
        out.flush()
