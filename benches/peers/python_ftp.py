# The FTP client of the benchmarks on Python's ftplib: `python_ftp.py URL DIRECTORY [CA]`. For each task that is written to it, it prints
# the CPU time that took, in nanoseconds. One session for all.

import ftplib
import ssl
import sys
import time
from urllib.parse import urlsplit

FILES = 500

url, directory, *ca = sys.argv[1:]
place = urlsplit(url)
if ca:
    ftp = ftplib.FTP_TLS(context=ssl.create_default_context(cafile=ca[0]))
else:
    ftp = ftplib.FTP()
ftp.connect(place.hostname, place.port)
ftp.login()
if ca:
    ftp.prot_p()


def down(remote, local):
    with open(f"{directory}/{local}", "wb") as file:
        ftp.retrbinary(f"RETR {remote}", file.write)


def files():
    for number in range(FILES):
        down(f"files/{number}", number)


def up():
    with open(f"{directory}/big", "rb") as file:
        ftp.storbinary("STOR up/ftplib", file)


tasks = {"down": lambda: down("big", "big"), "up": up, "files": files, "names": lambda: ftp.nlst("names")}
for line in sys.stdin:
    before = time.process_time_ns()
    tasks[line.strip()]()
    print(time.process_time_ns() - before, flush=True)
