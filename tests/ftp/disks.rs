//! Local disks that are full or read-only, in a mount namespace: root, too, is refused there.

use std::path::Path;
use std::process::Command;

use network::ftp::Status;

use super::common::{TempDir, noise, on_own_context};
use super::servers::{Tls, vsftpd};
use super::{name_server, send};

fn mount(options: &str, at: &Path) {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).status().unwrap();
    assert!(mounted.success(), "{options}");
}

#[test]
fn a_full_disk_and_a_read_only_one_leave_the_session_usable() {
    if !name_server::enter() {
        name_server::run_again_inside("disks::a_full_disk_and_a_read_only_one_leave_the_session_usable");
        return;
    }
    let served = vsftpd(Tls::None, "127.0.0.1");
    let content = noise(3 << 20, 11);
    std::fs::write(served.path("big"), &content).unwrap();
    for face in 0..3 {
        let local = TempDir::new();
        let (small, fixed) = (local.path("small"), local.path("fixed"));
        for directory in [&small, &fixed] {
            std::fs::create_dir(directory).unwrap();
        }
        mount("size=1m", &small);
        mount("size=1m", &fixed);
        std::fs::write(fixed.join("here"), "content").unwrap();
        mount("remount,ro", &fixed);
        on_own_context(|| {
            let client = served.session();
            let is_usable = || assert_eq!(client.working_directory().unwrap().directory, served.writable.as_str());
            let full = send(face, client.download("big", small.join("to")).resume(true)).unwrap_err();
            assert_eq!(full.ftp_status(), Status::INVALID_FILE, "{full}");
            assert!(full.to_string().contains("to.part: No space left on device"), "{full}");
            is_usable();
            let part = std::fs::metadata(small.join("to.part")).unwrap().len();
            assert!(part > 0 && part <= 1 << 20 && !small.join("to").exists(), "{part}");

            let refused = send(face, client.download("big", fixed.join("to"))).unwrap_err();
            assert_eq!(refused.ftp_status(), Status::INVALID_FILE, "{refused}");
            assert!(refused.to_string().contains("to.part: Read-only file system"), "{refused}");
            is_usable();
            assert_eq!(std::fs::read_dir(&fixed).unwrap().count(), 1);
            // To read from it is another matter.
            send(face, client.upload(fixed.join("here"), "there")).unwrap();
            assert_eq!(std::fs::read_to_string(served.path("there")).unwrap(), "content");

            // With room, it goes on.
            mount("remount,size=8m", &small);
            let first = std::rc::Rc::new(std::cell::Cell::new(None));
            let begins = first.clone();
            let note = move |progress: network::ftp::Progress| begins.set(begins.get().or(Some(progress.done)));
            send(face, client.download("big", small.join("to")).resume(true).progress(note)).unwrap();
            assert!(first.get().unwrap() > part, "it began anew");
            assert!(std::fs::read(small.join("to")).unwrap() == content);
        });
    }
}
