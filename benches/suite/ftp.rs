//! The FTP client beside libcurl and Python's ftplib. Here the clients are compared, and vsftpd serves them all: each is a process with one
//! session, and measures its own CPU time. They read and write files in memory where the system has a place for that, so that no disk is
//! measured.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use network::ClientTls;
use network::ftp::{Builder, Client};

use crate::Result;
use crate::process::{Kind, place};
use crate::report::{Goal, Row, Unit};
use crate::scenarios::{Bench, Samples};

const BIG: usize = 16 << 20;
/// The peers have the same number.
const FILES: usize = 500;
const NAMES: usize = 10_000;

/// The clients: ours by futures and by blocking calls.
const CLIENTS: [Kind; 5] = [Kind::Raw, Kind::Network, Kind::Blocking, Kind::Libcurl, Kind::Ftplib];

// ---- this library ----

/// Does one task for each line of standard input, and says how much CPU time that took.
pub fn client(kind: &str, url: &str, directory: &Path, ca: Option<&str>) -> Result<()> {
    let mut builder = Client::builder();
    if let Some(ca) = ca {
        builder = builder.tls(ClientTls::roots(fs::read(ca)?));
    }
    let awaits = kind == Kind::Network.name();
    let client = begin(builder, url)?;
    for task in std::io::stdin().lock().lines() {
        let (task, before) = (task?, cpu());
        if awaits {
            network::block_on(run_awaiting(&client, &task, directory))??;
        } else {
            run_blocking(&client, &task, directory)?;
        }
        println!("{}", cpu() - before);
    }
    Ok(())
}

fn begin(builder: Builder, url: &str) -> Result<Client> {
    let client = builder.connect(url)?;
    client.login_anonymous()?;
    Ok(client)
}

async fn run_awaiting(client: &Client, task: &str, directory: &Path) -> network::Result {
    match task {
        "down" => drop(client.download("big", directory.join("big")).send_future().await?),
        "up" => drop(client.upload(directory.join("big"), "up/network").send_future().await?),
        "names" => assert_eq!(client.directory_listing_future("names").await?.names.len(), NAMES),
        _ => {
            for number in 0..FILES {
                let (remote, local) = (format!("files/{number}"), directory.join(number.to_string()));
                client.download(remote, local).send_future().await?;
            }
        }
    }
    Ok(())
}

fn run_blocking(client: &Client, task: &str, directory: &Path) -> network::Result {
    match task {
        "down" => drop(client.download("big", directory.join("big")).send()?),
        "up" => drop(client.upload(directory.join("big"), "up/blocking").send()?),
        "names" => assert_eq!(client.directory_listing("names")?.names.len(), NAMES),
        _ => {
            for number in 0..FILES {
                let (remote, local) = (format!("files/{number}"), directory.join(number.to_string()));
                client.download(remote, local).send()?;
            }
        }
    }
    Ok(())
}

/// A client that knows nothing but these two transfers: the least that they cost.
pub fn bare(url: &str, directory: &Path) -> Result<()> {
    let control = TcpStream::connect(url.trim_start_matches("ftp://"))?;
    let mut control = BufReader::new(control);
    let mut ask = |command: &str| -> Result<String> {
        control.get_mut().write_all(command.as_bytes())?;
        let mut line = String::new();
        control.read_line(&mut line)?;
        Ok(line)
    };
    for command in ["", "USER anonymous\r\n", "PASS x\r\n", "TYPE I\r\n"] {
        ask(command)?;
    }
    let mut buffer = vec![0; 64 << 10];
    let mut copy = |from: &mut dyn Read, to: &mut dyn Write| -> Result<()> {
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                count => to.write_all(&buffer[..count])?,
            }
        }
    };
    for task in std::io::stdin().lock().lines() {
        let (task, before) = (task?, cpu());
        let passive = ask("EPSV\r\n")?;
        let port = passive.split("|||").nth(1).and_then(|rest| rest.split('|').next()?.parse().ok());
        let mut data = TcpStream::connect(("127.0.0.1", port.ok_or("no port")?))?;
        if task == "down" {
            ask("RETR big\r\n")?;
            copy(&mut data, &mut fs::File::create(directory.join("big"))?)?;
        } else {
            ask("STOR up/raw\r\n")?;
            copy(&mut fs::File::open(directory.join("big"))?, &mut data)?;
        }
        drop(data);
        ask("")?;
        println!("{}", cpu() - before);
    }
    Ok(())
}

/// Of all threads of this process, in nanoseconds.
fn cpu() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

// ---- the others ----

/// A client in a process of its own.
struct Running {
    kind: Kind,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// `None` if that kind is not there.
    fn start(kind: Kind, served: &Served) -> Result<Option<Running>> {
        let Some(program) = kind.command() else { return Ok(None) };
        let directory = served.directory.path().join(kind.name());
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("big"), vec![7; BIG])?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(program).arg(served.url(kind)).arg(&directory);
        command.args(&served.ca).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) =
            (child.stdin.take().ok_or("no input")?, BufReader::new(child.stdout.take().ok_or("no output")?));
        Ok(Some(Running { kind, child, input, output }))
    }

    /// CPU milliseconds of a task.
    fn run(&mut self, task: &str) -> Result<f64> {
        writeln!(self.input, "{task}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let nanoseconds: f64 = line.trim().parse().map_err(|_| format!("{} failed", self.kind.name()))?;
        Ok(nanoseconds / 1e6)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---- the server ----

struct Served {
    directory: tempfile::TempDir,
    child: Child,
    port: u16,
    ca: Option<PathBuf>,
}

impl Served {
    /// Starts vsftpd, with all that the tasks ask for.
    fn start(program: &Path, tls: bool) -> Result<Served> {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let path = |name: &str| directory.path().join(name);
        for name in ["empty", "root/up", "root/files", "root/names"] {
            fs::create_dir_all(path(name))?;
        }
        fs::write(path("root/big"), vec![7; BIG])?;
        for number in 0..FILES {
            fs::write(path(&format!("root/files/{number}")), [7; 1024])?;
        }
        for number in 0..NAMES {
            fs::write(path(&format!("root/names/file{number}")), "")?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let user = String::from_utf8(Command::new("id").arg("-un").output()?.stdout)?;
        let user = user.trim();
        let mut settings = format!(
            "background=NO\nlisten=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nrun_as_launching_user=YES\n\
             seccomp_sandbox=NO\nsecure_chroot_dir={}\nanonymous_enable=YES\nanon_root={}\nftp_username={user}\n\
             nopriv_user={user}\nwrite_enable=YES\nanon_upload_enable=YES\nanon_other_write_enable=YES\nanon_umask=022\n\
             allow_writeable_chroot=YES\nxferlog_enable=NO\n",
            path("empty").display(),
            path("root").display()
        );
        let mut ca = None;
        if tls {
            let (both, pem) = (path("both.pem"), path("cert.pem"));
            certify(&both, &pem)?;
            // Python's has no way to resume sessions, which is why that is not required.
            settings += &format!(
                "ssl_enable=YES\nallow_anon_ssl=YES\nforce_anon_data_ssl=YES\nforce_anon_logins_ssl=YES\n\
                 require_ssl_reuse=NO\nssl_tlsv1=YES\nrsa_cert_file={}\n",
                both.display()
            );
            ca = Some(pem);
        }
        fs::write(path("vsftpd.conf"), settings)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg(path("vsftpd.conf"));
        place(false);
        let child = command.stdout(Stdio::null()).spawn();
        place(true);
        let served = Served { child: child?, port, ca, directory };
        let late = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > late {
                return Err("vsftpd does not accept connections".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(served)
    }

    /// As that client writes it.
    fn url(&self, kind: Kind) -> String {
        let ours = matches!(kind, Kind::Network | Kind::Blocking);
        let scheme = if ours && self.ca.is_some() { "ftpes" } else { "ftp" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn certify(both: &Path, certificate: &Path) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
    openssl.args(["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"]).arg(both);
    openssl.arg("-out").arg(certificate).stderr(Stdio::null());
    if !openssl.status()?.success() {
        return Err("openssl made no certificate".into());
    }
    let all = [fs::read(both)?, fs::read(certificate)?].concat();
    fs::write(both, all)?;
    Ok(())
}

/// vsftpd as `./dev bench` unpacks it, or as it is installed.
fn vsftpd() -> Option<PathBuf> {
    let unpacked = std::env::var_os("NETWORK_PARTIES").map(|parties| PathBuf::from(parties).join("bin"));
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    let places = unpacked.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
    places.map(|place| place.join("vsftpd")).find(|program| program.is_file())
}

// ---- the table ----

pub fn run(bench: &mut Bench) -> Result<()> {
    let Some(program) = vsftpd() else {
        eprintln!("without vsftpd: ./dev bench unpacks it");
        return Ok(());
    };
    let bulk = || [Goal::times(1.10, Kind::Libcurl), Goal::times(0.5, Kind::Ftplib)];
    let served = Served::start(&program, false)?;
    let mut clients = clients(&served)?;
    bench.add(measure(bench, &mut clients, "down", "FTP: 16 MiB down", bulk())?);
    bench.add(measure(bench, &mut clients, "up", "FTP: 16 MiB up", bulk())?);
    clients.retain(|client| client.kind != Kind::Raw);
    bench.add(measure(
        bench,
        &mut clients,
        "files",
        "FTP: 500 files of 1 KiB down",
        [Goal::times(1.0, Kind::Libcurl)],
    )?);
    bench.add(measure(bench, &mut clients, "names", "FTP: 10 000 names", [Goal::at_most(10.0)])?);
    let served = Served::start(&program, true)?;
    let mut clients = self::clients(&served)?;
    let bulk = || [Goal::times(1.10, Kind::Libcurl)];
    bench.add(measure(bench, &mut clients, "down", "FTP: 16 MiB down, TLS", bulk())?);
    bench.add(measure(bench, &mut clients, "up", "FTP: 16 MiB up, TLS", bulk())?);
    Ok(())
}

fn clients(served: &Served) -> Result<Vec<Running>> {
    let kinds = CLIENTS.into_iter().filter(|kind| *kind != Kind::Raw || served.ca.is_none());
    let started = kinds.map(|kind| Running::start(kind, served));
    started.filter_map(std::result::Result::transpose).collect()
}

/// CPU milliseconds of each client, in rounds that take turns.
fn measure(
    bench: &Bench,
    clients: &mut [Running],
    task: &str,
    name: &str,
    goals: impl IntoIterator<Item = Goal>,
) -> Result<Row> {
    let mut times = Samples::new();
    // The first round warms up.
    for round in 0..=bench.rounds {
        for index in 0..clients.len() {
            // Forwards and backwards by turns: none always comes after the same other.
            let index = if round % 2 == 0 { index } else { clients.len() - 1 - index };
            let client = &mut clients[index];
            let time = client.run(task)?;
            if round > 0 {
                times.entry(client.kind).or_default().push(time);
            }
        }
    }
    Ok(Row::new(name, Unit::Millis, times, goals))
}
