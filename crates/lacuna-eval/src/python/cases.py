# Runs a program and its cases of unittest in one module, as BigCodeBench does. The program shares its process with what
# judges it, so a hostile one can forge the verdict; the judge says so.


def run():
    import types
    import unittest

    request, tell = begin()
    module = types.ModuleType("__test__")
    module.__dict__.update(__file__="__test__.py", sys=sys, os=os, environ=os.environ)
    # Cases patch names of the module by its own name.
    sys.modules["__test__"] = module
    result = unittest.TestResult()
    try:
        allow(request["seconds"])
        whole = request["code"] + "\n" + request["test"]
        exec(compile(whole, "__test__.py", "exec"), module.__dict__)
        unittest.TestLoader().loadTestsFromTestCase(module.TestCases).run(result)
        allow(0)
    except Late:
        return tell(k="late")
    except BaseException as error:
        return tell(k="failed", v=type(error).__name__, m=words(error))
    issues = result.failures + result.errors
    if issues:
        test, trace = issues[0]
        reason = trace.strip().splitlines()[-1]
        # A case catches what ends its time as it does any other exception.
        if reason.split(":")[0].endswith(Late.__name__):
            return tell(k="late")
        return tell(k="failed", v=test.id().split(".")[-1], m=reason[:200])
    if not result.testsRun:
        return tell(k="failed", v="TestCases", m="no case in it")
    tell(k="passed")


run()
os._exit(0)
