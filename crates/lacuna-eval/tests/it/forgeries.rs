//! Checks that no wrong program gets past the judge, by any way that is known from harnesses, and some more.

use crate::support::{checked, compared, judge, verdict};
use lacuna_eval::{Judge, Task};

const SOLUTION: &str = "def add(a, b):\n    return a + b\n";
const CHECK: &str = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(10, -4) == 6\n    \
                     assert abs(candidate(1, 1) - 2) < 1e-9\n";

fn tasks() -> [Task; 2] {
    [
        checked("add", SOLUTION, CHECK),
        compared("add", SOLUTION, "[[2, 3], [10, -4]]", "[[1, 1], [7, 8]]"),
    ]
}

/// Finds the judge's request in the frames above.
const STEAL: &str = "
import sys
def stolen():
    frame = sys._getframe()
    while frame:
        if 'request' in frame.f_locals and 'tell' in frame.f_locals:
            return frame.f_locals
        frame = frame.f_back
";

/// Programs that return no sum, and say that they did.
const FORGERIES: &[(&str, &str)] = &[
    ("a wrong answer", "def add(a, b): return a - b"),
    ("equal to everything", "class A:\n  def __eq__(s, o): return True\ndef add(a, b): return A()"),
    (
        "equal to everything, an int",
        "class A(int):\n  def __eq__(s, o): return True\n  __hash__ = int.__hash__\n  def __sub__(s, o): return 0\n  \
         __abs__ = lambda s: 0\ndef add(a, b): return A(0)",
    ),
    (
        "equal to everything, a float",
        "class A(float):\n  def __eq__(s, o): return True\n  def __lt__(s, o): return True\ndef add(a, b): return A(0)",
    ),
    (
        "a text of its own kind",
        "class A(str):\n  def __eq__(s, o): return True\ndef add(a, b): return A('5')",
    ),
    ("a mock", "from unittest.mock import ANY\ndef add(a, b): return ANY"),
    (
        "a class that says it is int",
        "class A:\n  __class__ = int\n  def __eq__(s, o): return True\ndef add(a, b): return A()",
    ),
    ("the end of the process, at once", "import os\nos._exit(0)"),
    ("the end of the process, in a call", "import os\ndef add(a, b): os._exit(0)"),
    ("sys.exit, at once", "import sys\nsys.exit(0)"),
    ("sys.exit, in a call", "import sys\ndef add(a, b): sys.exit(0)"),
    ("SystemExit, raised", "def add(a, b): raise SystemExit(0)"),
    ("a generator's end", "def add(a, b): raise StopIteration(5)"),
    (
        "an exit at the end",
        "import atexit, os\natexit.register(lambda: os._exit(0))\ndef add(a, b): return 1",
    ),
    ("a check of its own", "def check(candidate): pass\ndef add(a, b): return 1"),
    (
        "assertions that do nothing",
        "import builtins\nbuiltins.AssertionError = type('A', (Exception,), {})\ndef add(a, b): return 1",
    ),
    (
        "replaced builtins",
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = lambda x: True\nbuiltins.exec = builtins.compile = \
         builtins.len = lambda *a: 0\ndef add(a, b): return 1",
    ),
    (
        "replaced mathematics",
        "import math\nmath.isclose = lambda *a, **k: True\nmath.fabs = lambda x: 0.0\ndef add(a, b): return 1",
    ),
    (
        "a JSON that says so",
        "import json\njson.dumps = lambda *a, **k: '{\"k\": \"passed\"}'\ndef add(a, b): return 1",
    ),
    (
        "a JSON without content",
        "import json\njson.dumps = lambda *a, **k: 'x'\ndef add(a, b): return 5",
    ),
    (
        "modules in the place of modules",
        "import sys, types\nm = types.ModuleType('json')\nm.dumps = m.loads = lambda *a, **k: '5'\nsys.modules['json'] = m\n\
         def add(a, b): return 1",
    ),
    (
        "an int whose == is true",
        "import ctypes, gc\ngc.get_referents(int.__dict__)[0]['__eq__'] = lambda a, b: True\nctypes.pythonapi.PyType_Modified(\
         ctypes.py_object(int))\ndef add(a, b): return 1",
    ),
    (
        "another value for five",
        "import ctypes\ndef add(a, b):\n  ctypes.memmove(id(5) + 24, id(1) + 24, 4)\n  return 1",
    ),
    ("a death by signal", "import ctypes\ndef add(a, b): ctypes.string_at(0)"),
    ("a death by recursion", "def add(a, b): return add(a, b)"),
    ("all memory", "def add(a, b):\n  x = bytearray(10 ** 11)\n  return 5"),
    (
        "words on stdout",
        "def add(a, b):\n  print('{\"k\": \"passed\"}')\n  print('passed')\n  return 1",
    ),
    (
        "words on every descriptor",
        "import os\ndef add(a, b):\n  for d in range(20):\n    try: os.write(d, b'{\"k\": \"passed\"}\\n')\n    except OSError: pass\n  return 1",
    ),
    ("closed descriptors", "import os\ndef add(a, b):\n  os.closerange(0, 20)\n  return 5"),
    (
        "a full channel",
        "import os\ndef add(a, b):\n  for d in range(3, 20):\n    try:\n      for _ in range(200): os.write(d, b'x' * (1 << 20))\n    except OSError: pass\n  return 5",
    ),
    (
        "a thread that answers later",
        "import os, threading, time\ndef late():\n  time.sleep(0.2)\n  for d in range(3, 20):\n    try: os.write(d, b'{\"k\": \
         \"ok\", \"v\": 5}\\n')\n    except OSError: pass\ndef add(a, b):\n  threading.Thread(target=late).start()\n  \
         time.sleep(0.3)\n  return 1",
    ),
    (
        "the request, read again",
        "import os\ndef add(a, b):\n  os.lseek(0, 0, 0)\n  return len(os.read(0, 100))",
    ),
    (
        "files of the process",
        "import os\ntried = []\nfor p in ['/proc/self/mem', '/proc/self/environ', '/proc/self/cmdline', '/proc/self/fd/0', '/proc/1/cmdline']:\n  \
         try: tried.append(open(p, 'rb').read())\n  except OSError: pass\ndef add(a, b): return len(tried) or 1",
    ),
    (
        "a file for the next one",
        "open('/tmp/json.py', 'w').write('x')\nopen('json.py', 'w').write('x')\ndef add(a, b): return a + b",
    ),
    ("another process", "import os\nif os.fork(): os._exit(0)\ndef add(a, b): return a + b"),
    (
        "a function that is a class",
        "class add:\n  def __init__(s, *a): pass\n  def __eq__(s, o): return True",
    ),
    ("a value by its tag", "def add(a, b): return {'i': '0x5'}"),
    ("a float by its tag", "def add(a, b): return {'f': '5.0'}"),
    ("the values as a list", "def add(a, b): return [5, 6, 2]"),
    ("not a number", "def add(a, b): return float('nan')"),
    ("half a character", "def add(a, b): return '\\ud800'"),
    ("a value without a bottom", "def add(a, b):\n  x = []\n  x.append(x)\n  return x"),
    (
        "a very deep value",
        "def add(a, b):\n  x = []\n  for _ in range(100000): x = [x]\n  return x",
    ),
    ("a coroutine", "async def add(a, b): return a + b"),
    (
        "the traced return",
        "import sys\ndef add(a, b): return 1\nsys.settrace(lambda f, e, x: None)\nsys.setprofile(lambda f, e, x: None)",
    ),
];

/// Programs that know the judge's script, and use what they find in its frames.
const INSIDERS: &[(&str, &str)] = &[
    ("the calls, emptied", "def add(a, b):\n  stolen()['request']['calls'][:] = []\n  return 5"),
    ("the verdict, with the nonce", "stolen()['tell'](k='passed')\nimport os; os._exit(0)"),
    ("the end, with the nonce", "stolen()['tell'](k='end')\ndef add(a, b): return 1"),
    ("more, with the nonce", "stolen()['tell'](k='more', calls=[])\nimport os; os._exit(0)"),
    (
        "guesses in the place of replies",
        "for _ in stolen()['request']['calls']: stolen()['tell'](k='ok', v=5)\nimport os; os._exit(0)",
    ),
    ("a reply more", "def add(a, b):\n  stolen()['tell'](k='ok', v=5)\n  return 5"),
    (
        "a reply of no kind",
        "for _ in stolen()['request']['calls']: stolen()['tell'](k='passed', v=5)\nimport os; os._exit(0)",
    ),
    (
        "a reply without a value",
        "for _ in stolen()['request']['calls']: stolen()['tell'](k='ok')\nimport os; os._exit(0)",
    ),
    (
        "a tagged reply",
        "for _ in stolen()['request']['calls']: stolen()['tell'](k='ok', v={'q': 5})\nimport os; os._exit(0)",
    ),
    (
        "keys that come twice",
        "import os\nr = stolen()['request']\nline = '{\"n\": \"x\", \"n\": \"' + r['nonce'] + '\", \"k\": \"ok\", \"v\": 5}\\n'\n\
         for d in range(3, 20):\n  try: os.write(d, line.encode() * len(r['calls']))\n  except OSError: pass\nos._exit(0)",
    ),
    (
        "an encoder that says five",
        "import sys\nf = stolen()\nsys._getframe(0)\nimport gc\nfor o in gc.get_objects():\n  if type(o) is dict and 'encode' in o and 'decode' in o: o['encode'] = lambda v, depth=0: 5\ndef add(a, b): return 1",
    ),
    (
        "an alarm that does not ring",
        "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0)\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\ndef add(a, b): return 1",
    ),
    (
        "the frames' own globals",
        "import sys\nf = sys._getframe()\nwhile f:\n  f.f_globals['allow'] = f.f_globals['encode'] = lambda *a: 5\n  f = f.f_back\ndef add(a, b): return 1",
    ),
];

#[track_caller]
fn refused(judge: &Judge, name: &str, program: &str) {
    for task in &tasks() {
        let verdict = verdict(judge, task, program);
        assert!(!verdict.passed, "{name}: {} accepted it", task.id);
        assert!(!verdict.is_forgeable);
        // One that can't be parsed would try nothing.
        assert!(!verdict.result.contains("SyntaxError"), "{name}: {}", verdict.result);
        assert!(!verdict.result.contains("IndentationError"), "{name}: {}", verdict.result);
    }
}

#[test]
fn no_forgery_is_accepted() {
    let Some(judge) = judge() else { return };
    for (name, program) in FORGERIES {
        refused(&judge, name, program);
    }
}

#[test]
fn no_forgery_from_inside_is_accepted() {
    let Some(judge) = judge() else { return };
    for (name, program) in INSIDERS {
        refused(&judge, name, &format!("{STEAL}{program}"));
    }
}

#[test]
fn the_corpus_is_a_corpus_and_the_right_answer_passes() {
    assert!(FORGERIES.len() + INSIDERS.len() >= 50);
    let Some(judge) = judge() else { return };
    for task in &tasks() {
        assert!(verdict(&judge, task, SOLUTION).passed);
        // A program may do other things besides, as long as it answers.
        let noisy = "import sys, threading\nprint('hello')\nsys.stderr.write('x' * 100000)\n\
                     t = threading.Thread(target=print); t.start(); t.join()\ndef add(a, b): return a + b";
        assert!(verdict(&judge, task, noisy).passed);
    }
}

#[test]
fn a_program_that_does_not_end_is_ended() {
    let Some(mut judge) = judge() else { return };
    (judge.check_s, judge.call_s) = (1.0, 1.0);
    for program in [
        "def add(a, b):\n  while True: pass",
        "while True: pass",
        "def add(a, b):\n  while True:\n    try:\n      while True: pass\n    except BaseException: pass",
        "import signal\ndef add(a, b):\n  signal.setitimer(signal.ITIMER_REAL, 0)\n  while True: pass",
    ] {
        for task in &tasks() {
            assert_eq!(verdict(&judge, task, program).result, "timed out", "{program}");
        }
    }
}

#[test]
fn an_argument_that_a_program_changes_is_not_the_checks() {
    let Some(judge) = judge() else { return };
    let check = "def check(candidate):\n    values = [3, 1, 2]\n    assert candidate(values) == sorted(values)\n    \
                 assert values == [3, 1, 2]\n";
    let task = checked("ordered", "def ordered(values):\n    return sorted(values)\n", check);
    assert!(verdict(&judge, &task, &task.solution()).passed);
    let forged = "def ordered(values):\n    values.clear()\n    return []\n";
    assert!(!verdict(&judge, &task, forged).passed);
}

#[test]
fn an_expression_is_a_value_and_no_program() {
    let Some(judge) = judge() else { return };
    let output = Task {
        tests: lacuna_eval::Tests::Output { output: "[1, 'a']".into() },
        ..checked("f", "[1, 'a']", "")
    };
    let code = "def f(x):\n    return [x, 'a']\n";
    let tests = lacuna_eval::Tests::Input { code: code.into(), output: "[1, 'a']".into() };
    let input = Task { tests, ..checked("f", "f(1)", "") };
    for task in [&output, &input] {
        assert!(verdict(&judge, task, &task.solution()).passed);
    }
    assert!(verdict(&judge, &input, "1").passed, "the arguments alone");
    assert!(verdict(&judge, &output, "[True, 'a']").passed, "equal as in Python");
    for forged in [
        "f(1)",
        "type('A', (), {'__eq__': lambda s, o: True})()",
        "__import__('os')._exit(0)",
        "(exit(0))",
        "1) == 1 or (1",
        "[1, 'a']\n)\nraise SystemExit((0",
        "",
        "__import__('unittest.mock').mock.ANY",
    ] {
        assert!(!verdict(&judge, &output, forged).passed, "{forged}");
    }
    for forged in [
        "f(2)",
        "f(type('A', (int,), {'__eq__': lambda s, o: True})(1))",
        "f(*[1, 2])",
        "(lambda: None)()",
        "f",
        "([1, 'a'], {})",
        "__import__('os')._exit(0)",
    ] {
        assert!(!verdict(&judge, &input, forged).passed, "{forged}");
    }
}

#[test]
fn tests_that_look_inside_say_that_they_can_be_forged() {
    let Some(judge) = judge() else { return };
    let tests = lacuna_eval::Tests::Together { program: "assert Box(3).twice() == 6\n".into() };
    let class = "class Box:\n    def __init__(self, x):\n        self.x = x\n    def twice(self):\n        return 2 * self.x\n";
    let task = Task { tests, ..checked("", class, "") };
    let right = verdict(&judge, &task, class);
    assert!(right.passed && right.is_forgeable);
    for wrong in [
        "class Box:\n    def __init__(self, x): pass\n    def twice(self): return 5\n",
        "import os; os._exit(0)",
        "exit(0)",
        "",
    ] {
        assert!(!verdict(&judge, &task, wrong).passed, "{wrong}");
    }
}
