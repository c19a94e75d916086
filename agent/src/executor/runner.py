# Calls one function of one module, whose source is stdin: its path may lead elsewhere by now. Arguments: root, file, function, input
# file, report file, most bytes of the result.
import sys

# Not from the working directory: a module there may bear the name of one of Python's own. Its directory comes first when it is loaded.
sys.path = [entry for entry in sys.path if entry]

import asyncio
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import traceback


class Opened(importlib.machinery.SourceFileLoader):
    """Loads a module from source that has been read already."""

    def __init__(self, name, path, source):
        super().__init__(name, path)
        self.source = source

    def get_data(self, path):
        return self.source if path == self.path else super().get_data(path)

    def path_stats(self, path):
        # So that no compiled form of another file is taken for it.
        raise OSError


def source_of_module():
    with open(0, "rb") as opened:
        source = opened.read()
    # The function's own stdin is empty, as that of any job.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return source


def own_name(root, file):
    """The dotted name of the file, whose packages are imported, so that imports relative to them work."""
    name, _ = os.path.splitext(os.path.relpath(file, root))
    parts = name.split(os.sep)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    name = ".".join(parts)
    if name in sys.modules or not all(part.isidentifier() for part in parts):
        return None
    try:
        package = importlib.import_module(".".join(parts[:-1])) if len(parts) > 1 else None
    except ModuleNotFoundError as error:
        # A parent of that name is something else, such as a module of Python's own.
        if not name.startswith(error.name or "\0"):
            raise
        return None
    within = [root] if package is None else list(getattr(package, "__path__", []))
    directory = os.path.dirname(os.path.dirname(file) if file.endswith("__init__.py") else file)
    return name if any(os.path.realpath(path) == directory for path in within) else None


def load(root, file, source):
    """Imports the file, under its own dotted name where it has one."""
    sys.path.insert(0, root)
    name = own_name(root, file) or "orrery_function_module"
    places = [os.path.dirname(file)] if file.endswith("__init__.py") else None
    loader = Opened(name, file, source)
    spec = importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=places)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def call(function, parameters):
    """Calls it with the parameters as its one argument, or without where it takes none."""
    try:
        taken = inspect.signature(function).parameters.values()
        takes = any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in taken)
    except (TypeError, ValueError):
        takes = True
    returned = function(parameters) if takes else function()
    if inspect.isawaitable(returned):

        async def awaited():
            return await returned

        returned = asyncio.run(awaited())
    return returned


def raised(error):
    # The frames of this runner say nothing to the one who reads it.
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == "<string>":
        trace = trace.tb_next
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    if not isinstance(error, SyntaxError):
        text = str(error)
        message = type(error).__name__ + (": " + text if text else "")
    return {"raised": {"message": message, "stack": "".join(traceback.format_exception(type(error), error, trace))}}


def report(root, file, name, given, most):
    try:
        source = source_of_module()
        with open(given, encoding="utf-8") as text:
            parameters = json.load(text)
        module = load(root, file, source)
        function = getattr(module, name, None)
        if not callable(function):
            return {"no_function": "%s has no function %r" % (os.path.relpath(file, root), name)}
        returned = call(function, parameters)
        text = json.dumps(returned, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode("utf-8", "replace"))
        return {"too_large": size} if size > most else '{"returned":' + text + "}"
    except BaseException as error:
        return raised(error)


def main():
    root, file, name, given, target, most = sys.argv[1:]
    sys.argv = [file]
    told = report(root, file, name, given, int(most))
    with open(target, "w", encoding="utf-8", errors="replace") as out:
        out.write(told if isinstance(told, str) else json.dumps(told))


main()
