//! FTP servers that we did not write, each started privately with a directory of its own.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use network::ClientTls;
use network::ftp::{self, Builder};

use super::common::{LIMIT, Process, TempDir, Watch, party, tool};

/// The security of connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tls {
    None,
    Explicit,
    Implicit,
}

/// A server that runs, and a user on it.
pub struct Served {
    _process: Process,
    directory: TempDir,
    pub port: u16,
    pub tls: Tls,
    pub user: &'static str,
    pub password: &'static str,
    /// The home directory, and a directory in which files may be written.
    pub home: String,
    pub writable: String,
    root: PathBuf,
    ip: &'static str,
}

/// The differences between the servers.
pub struct Facts {
    pub name: &'static str,
    pub has_mlsd: bool,
    pub start: fn() -> Served,
}

pub const SERVERS: [Facts; 6] = [
    Facts { name: "vsftpd", has_mlsd: false, start: || vsftpd(Tls::None, "127.0.0.1") },
    Facts { name: "vsftpd, TLS with reuse", has_mlsd: false, start: || vsftpd(Tls::Explicit, "127.0.0.1") },
    Facts { name: "pyftpdlib", has_mlsd: true, start: || pyftpdlib(Tls::None) },
    Facts { name: "pyftpdlib, TLS", has_mlsd: true, start: || pyftpdlib(Tls::Explicit) },
    Facts { name: "pyftpdlib, implicit TLS", has_mlsd: true, start: || pyftpdlib(Tls::Implicit) },
    Facts { name: "pure-ftpd", has_mlsd: true, start: pure_ftpd },
];

impl Served {
    pub fn host(&self) -> String {
        if self.ip.contains(':') {
            format!("[{}]:{}", self.ip, self.port)
        } else {
            format!("{}:{}", self.ip, self.port)
        }
    }

    pub fn address(&self) -> String {
        let scheme = match self.tls {
            Tls::None => "ftp",
            Tls::Explicit => "ftpes",
            Tls::Implicit => "ftps",
        };
        format!("{scheme}://{}", self.host())
    }

    /// A builder that trusts its certificate.
    pub fn builder(&self) -> Builder {
        trusting(&self.directory, self.tls)
    }

    /// A session, logged in, where files may be written.
    pub fn session(&self) -> ftp::Client {
        let client = self.builder().connect(self.address()).unwrap();
        client.login(self.user, self.password).unwrap();
        client.change_directory(&self.writable).unwrap();
        client
    }

    /// The local path of a file in the directory that may be written.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join("up").join(name)
    }
}

/// A builder that trusts the certificate in a directory.
pub fn trusting(directory: &TempDir, tls: Tls) -> Builder {
    let builder = ftp::Client::builder();
    if tls == Tls::None {
        return builder;
    }
    builder.tls(ClientTls::roots(std::fs::read(directory.path("cert.pem")).unwrap()))
}

fn free_port(ip: &str) -> u16 {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port()
}

/// Waits until it accepts connections: it does not say.
pub fn await_start(ip: &str, port: u16) {
    let late = Instant::now() + LIMIT;
    while TcpStream::connect((ip, port)).is_err() {
        assert!(Instant::now() < late, "the server does not accept connections");
        std::thread::yield_now();
    }
}

/// Makes a certificate: `cert.pem`, and with its key `both.pem`.
pub fn certify(directory: &TempDir) {
    let (cert, key) = (directory.address("cert.pem"), directory.address("key.pem"));
    let mut openssl = tool("/usr/bin/openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
    openssl.args([
        "-subj",
        "/CN=server",
        "-addext",
        "subjectAltName=IP:127.0.0.1,IP:::1,IP:10.9.8.7",
        "-out",
        &cert,
        "-keyout",
        &key,
    ]);
    assert!(super::common::run(&mut openssl, "").status.success());
    let both = [std::fs::read(cert).unwrap(), std::fs::read(key).unwrap()].concat();
    std::fs::write(directory.path("both.pem"), both).unwrap();
}

/// The files that every server has.
fn fill(root: &std::path::Path) {
    std::fs::create_dir_all(root.join("up")).unwrap();
    std::fs::write(root.join("hello.txt"), "hello\nworld\n").unwrap();
}

pub fn vsftpd(tls: Tls, ip: &'static str) -> Served {
    let directory = TempDir::new();
    let (root, empty) = (directory.path("root"), directory.path("empty"));
    fill(&root);
    std::fs::create_dir(&empty).unwrap();
    let port = free_port(ip);
    let user = String::from_utf8(super::common::command("id", ["-un"]).output().unwrap().stdout).unwrap();
    let user = user.trim();
    let listen = if ip.contains(':') { "listen_ipv6=YES\nlisten_address6" } else { "listen=YES\nlisten_address" };
    let mut settings = format!(
        "background=NO\n{listen}={ip}\nlisten_port={port}\nrun_as_launching_user=YES\nseccomp_sandbox=NO\n\
         secure_chroot_dir={}\nanonymous_enable=YES\nanon_root={}\nftp_username={user}\nnopriv_user={user}\nwrite_enable=YES\n\
         anon_upload_enable=YES\nanon_mkdir_write_enable=YES\nanon_other_write_enable=YES\nanon_umask=022\n\
         allow_writeable_chroot=YES\nascii_upload_enable=YES\nascii_download_enable=YES\nxferlog_enable=NO\n",
        empty.display(),
        root.display()
    );
    if tls == Tls::Explicit {
        certify(&directory);
        settings += &format!(
            "ssl_enable=YES\nallow_anon_ssl=YES\nforce_anon_data_ssl=YES\nforce_anon_logins_ssl=YES\nrequire_ssl_reuse=YES\n\
             ssl_tlsv1=YES\nrsa_cert_file={}\n",
            directory.address("both.pem")
        );
    }
    let file = directory.path("vsftpd.conf");
    std::fs::write(&file, settings).unwrap();
    let process = Process::start(party("vsftpd").arg(file), Watch::Stderr);
    await_start(ip, port);
    Served {
        _process: process,
        directory,
        port,
        tls,
        user: "anonymous",
        password: "me@",
        // It runs as the launching user, and sees all of the file system.
        home: root.to_str().unwrap().to_owned(),
        writable: root.join("up").to_str().unwrap().to_owned(),
        root,
        ip,
    }
}

const PYTHON: &str = r#"
import errno, logging, sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer
from pyftpdlib.filesystems import AbstractedFS

root, tls, certificate = sys.argv[1:]

class Quota(AbstractedFS):
    def open(self, name, mode):
        if name.endswith("too-much"):
            raise OSError(errno.EDQUOT, "quota")
        return super().open(name, mode)

class Implicit(TLS_FTPHandler):
    def handle(self):
        self.secure_connection(self.ssl_context)
    def handle_ssl_established(self):
        TLS_FTPHandler.handle(self)
    def ftp_AUTH(self, arg):
        self.respond("550 TLS already")

handler = {"None": FTPHandler, "Explicit": TLS_FTPHandler, "Implicit": Implicit}[tls]
handler.authorizer = DummyAuthorizer()
handler.authorizer.add_user("joe", "pa ss", root, perm="elradfmwMT")
handler.abstracted_fs = Quota
handler.use_sendfile = False
if tls != "None":
    handler.certfile = certificate
    handler.tls_control_required = True
    handler.tls_data_required = True
logging.basicConfig(level=logging.ERROR)
server = FTPServer(("127.0.0.1", 0), handler)
print("port", server.socket.getsockname()[1], flush=True)
server.serve_forever()
"#;

pub fn pyftpdlib(tls: Tls) -> Served {
    let directory = TempDir::new();
    let root = directory.path("root");
    fill(&root);
    certify(&directory);
    let mut python: Command = tool("/usr/bin/python3");
    python.args(["-c", PYTHON, root.to_str().unwrap(), &format!("{tls:?}"), &directory.address("both.pem")]);
    let process = Process::start(&mut python, Watch::Stdout);
    let port = process.port("port");
    Served {
        _process: process,
        directory,
        port,
        tls,
        user: "joe",
        password: "pa ss",
        home: "/".into(),
        writable: "/up".into(),
        root,
        ip: "127.0.0.1",
    }
}

/// Serves virtual users. For root alone: it changes to their user.
pub fn pure_ftpd() -> Served {
    let directory = TempDir::new();
    let root = directory.path("root");
    fill(&root);
    super::common::command("chmod", ["-R", "777", directory.path("").to_str().unwrap()]).status().unwrap();
    let (passwords, database) = (directory.address("passwd"), directory.address("users.pdb"));
    let mut pure_pw = party("pure-pw");
    pure_pw.args(["useradd", "joe", "-f", &passwords, "-F", &database, "-u", "65534", "-g", "65534", "-m", "-d"]);
    pure_pw.arg(&root);
    assert!(super::common::run(&mut pure_pw, "secret\nsecret\n").status.success());
    let port = free_port("127.0.0.1");
    let mut pure_ftpd = party("pure-ftpd");
    pure_ftpd.args([
        "-S",
        &format!("127.0.0.1,{port}"),
        "-E",
        "-4",
        "-u",
        "1",
        "-H",
        "-l",
        &format!("puredb:{database}"),
    ]);
    let process = Process::start(&mut pure_ftpd, Watch::Stderr);
    await_start("127.0.0.1", port);
    Served {
        _process: process,
        directory,
        port,
        tls: Tls::None,
        user: "joe",
        password: "secret",
        home: "/".into(),
        writable: "/up".into(),
        root,
        ip: "127.0.0.1",
    }
}
