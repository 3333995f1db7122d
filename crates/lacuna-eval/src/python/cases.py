# Runs a program and its cases of unittest: in one module, as BigCodeBench does, or in files that import it, as Exercism's
# exercises do. The program shares its process with what judges it, so a hostile one can forge the verdict; the judge says so.


def run():
    import importlib
    import types
    import unittest

    request, tell = begin()

    def in_one_module():
        module = types.ModuleType("__test__")
        module.__dict__.update(__file__="__test__.py", sys=sys, os=os, environ=os.environ)
        # Cases patch names of the module by its own name.
        sys.modules["__test__"] = module
        whole = request["code"] + "\n" + request["test"]
        exec(compile(whole, "__test__.py", "exec"), module.__dict__)
        return unittest.TestLoader().loadTestsFromTestCase(module.TestCases)

    def in_files():
        folder = os.environ["TMPDIR"]
        for name, text in request["files"]:
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        sys.path.insert(0, folder)
        loader = unittest.TestLoader()
        modules = map(importlib.import_module, request["modules"])
        return unittest.TestSuite(map(loader.loadTestsFromModule, modules))

    class Result(unittest.TestResult):
        """Keeps a line of each issue, and stops where time is up."""

        issues = ()
        is_late = False

        def note(self, test, error):
            kind, value, _ = error
            if issubclass(kind, Late):
                self.is_late = True
                self.stop()
            name = getattr(test, "_testMethodName", None) or str(test).split(" ")[0]
            reason = (words(value).splitlines() or [""])[0]
            self.issues += ((name, kind.__name__ + ": " + reason),)

        def addError(self, test, error):
            self.note(test, error)

        def addFailure(self, test, error):
            self.note(test, error)

        def addSubTest(self, test, subtest, error):
            if error is not None:
                self.note(test, error)

    result = Result()
    try:
        allow(request["seconds"])
        suite = in_files() if "files" in request else in_one_module()
        suite.run(result)
        allow(0)
    except Late:
        return tell(k="late")
    except BaseException as error:
        return tell(k="failed", v=type(error).__name__, m=words(error))
    if result.is_late:
        return tell(k="late")
    if result.issues:
        name, reason = result.issues[0]
        # As much as another try is told.
        lines = (name + ": " + reason for name, reason in result.issues[:50])
        return tell(k="failed", v=name, m=reason, all="\n".join(lines)[:4000])
    # Cases that are all skipped pass, as with the authors; a class without any is no test.
    if not result.testsRun:
        return tell(k="failed", v="TestCases", m="no case in it")
    tell(k="passed")


run()
os._exit(0)
