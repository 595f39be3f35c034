# Runs the Autobahn test suite against the program autobahn.rs, in both roles, and prints what was not OK. For Python 2.7, the only one
# that the suite runs on; ./dev autobahn starts it. Arguments: the directory of the suite, the program, a directory for reports.
from __future__ import print_function
import collections, json, os, site, socket, subprocess, sys, time

suite, program, reports = sys.argv[1:]
# Not by PYTHONPATH: zope.interface is found by its .pth file only.
site.addsitedir(suite)
START = "import site; site.addsitedir(%r); from autobahntestsuite.wstest import run; run()" % suite
# Masses of messages (9) measure speed, and 12 and 13 are about permessage-deflate, which is not supported.
CASES = {"cases": ["*"], "exclude-cases": ["9.*", "12.*", "13.*"], "exclude-agent-cases": {}}
# Broken UTF-8 is noticed at the end of a frame, not of the byte: docs/websocket.md says so.
NON_STRICT = {"6.4.3", "6.4.4"}

def wstest(mode, **spec):
    path = os.path.join(reports, mode + ".json")
    with open(path, "w") as file:
        json.dump(dict(CASES, outdir = os.path.join(reports, mode), **spec), file)
    log = open(path + ".log", "w")
    return subprocess.Popen([sys.executable, "-c", START, "-m", mode, "-s", path], stdout = log, stderr = log)

def free_port():
    with_port = socket.socket()
    with_port.bind(("127.0.0.1", 0))
    port = with_port.getsockname()[1]
    with_port.close()
    return port

def server():
    echo = subprocess.Popen([program, "server"], stdout = subprocess.PIPE)
    try:
        url = echo.stdout.readline().strip()
        return wstest("fuzzingclient", servers = [{"agent": "network", "url": url}]).wait()
    finally:
        echo.kill()
        echo.wait()

def client():
    port = free_port()
    fuzzer = wstest("fuzzingserver", url = "ws://127.0.0.1:%d" % port)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except socket.error:
                time.sleep(0.05)
        return subprocess.call([program, "client", "ws://127.0.0.1:%d" % port])
    finally:
        fuzzer.kill()
        fuzzer.wait()

failed = False
for role, run, mode in [("server", server, "fuzzingclient"), ("client", client, "fuzzingserver")]:
    status = run()
    path = os.path.join(reports, mode, "index.json")
    if status or not os.path.exists(path):
        sys.exit("%s: the suite has failed, see %s.json.log" % (role, os.path.join(reports, mode)))
    cases = json.load(open(path))["network"]
    words = collections.Counter(case["behavior"] for case in cases.values())
    print("%s: %d cases: %s" % (role, len(cases), ", ".join("%d %s" % (count, word) for word, count in words.most_common())))
    for number, case in sorted(cases.items()):
        for word in (case["behavior"], case["behaviorClose"]):
            if word not in ("OK", "INFORMATIONAL") and not (word == "NON-STRICT" and number in NON_STRICT):
                print("    %s: %s" % (number, word))
                failed = True
    failed = failed or len(cases) < 240
sys.exit(1 if failed else 0)
