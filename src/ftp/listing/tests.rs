use super::*;

fn now() -> SystemTime {
    time::of_digits("20240315120000").unwrap()
}

fn at(digits: &str) -> Option<SystemTime> {
    Some(time::of_digits(digits).unwrap())
}

fn list(line: &str) -> Entry {
    list_line(line.as_bytes(), now()).unwrap()
}

fn summary(entry: &Entry) -> (Kind, String, Option<u64>, Option<SystemTime>) {
    (entry.kind, entry.name.to_string(), entry.size, entry.modified)
}

#[test]
fn lines_of_ls() {
    let entry = list("-rw-r--r--    1 1000     1000         1234 Jan 31 12:34 a file");
    assert_eq!(summary(&entry), (Kind::File, "a file".into(), Some(1234), at("20240131123400")));
    assert_eq!(entry.permissions.as_deref(), Some("rw-r--r--"));
    // Without a group, of another year, with a leading space.
    let entry = list("drwxr-xr-x 2 ftp 4096 Dec  1  2020  x");
    assert_eq!(summary(&entry), (Kind::Directory, " x".into(), Some(4096), at("20201201000000")));
    // Still to come this year: of the last one.
    assert_eq!(list("-rw-r--r-- 1 u g 0 Apr 1 00:00 x").modified, at("20230401000000"));
    assert_eq!(list("-rw-r--r-- 1 u g 0 Mar 16 11:00 x").modified, at("20240316110000"));
    // On the 29th of February only a leap year can be meant.
    assert_eq!(list("-rw-r--r-- 1 u g 0 Feb 29 11:00 x").modified, at("20240229110000"));
    let entry = list("lrwxrwxrwx 1 u g 4 2024-01-02 03:04 here -> there");
    assert_eq!(summary(&entry), (Kind::Link, "here".into(), Some(4), at("20240102030400")));
    let entry = list("crw-rw-rw- 1 root root 1, 3 Jan 1 12:00 null");
    assert_eq!(summary(&entry), (Kind::Special, "null".into(), None, at("20240101120000")));
    assert_eq!(list("-rw-r--r--+ 1 u g 5 Jan 1 2024 x").size, Some(5));
    // An owner that looks like a date.
    assert_eq!(list("-rw-r--r-- 1 Jan 1 5 Jan 1 2024 x").name, "x");
    let entry = list_line(b"-rw-r--r-- 1 u g 5 Jan 1 2024 \xff\xfe", now()).unwrap();
    assert_eq!((entry.kind, entry.name.0), (Kind::File, vec![0xff, 0xfe]));
}

#[test]
fn lines_of_dir() {
    let entry = list("01-31-24  12:34PM       <DIR>          My Files");
    assert_eq!(summary(&entry), (Kind::Directory, "My Files".into(), None, at("20240131123400")));
    let entry = list("01-31-2024  12:04AM            1,234,567 a b.txt");
    assert_eq!(summary(&entry), (Kind::File, "a b.txt".into(), Some(1_234_567), at("20240131000400")));
    assert_eq!(list("01-31-24  23:04                    1 x").modified, at("20240131230400"));
}

#[test]
fn lines_of_eplf() {
    let entry = list("+i8388621.48594,m825718503,r,s280,\tdjb.html");
    assert_eq!(summary(&entry), (Kind::File, "djb.html".into(), Some(280), at("19960301221503")));
    assert_eq!(list("+i1.2,m824255907,/,\t514").kind, Kind::Directory);
}

#[test]
fn lines_of_mlsd() {
    let parse = |line: &str| fact_line(line.as_bytes());
    let entry = parse("type=file;size=12;modify=20240131123456;perm=adfr;unique=x; a  b").unwrap();
    assert_eq!(summary(&entry), (Kind::File, "a  b".into(), Some(12), at("20240131123456")));
    assert_eq!(entry.permissions.as_deref(), Some("adfr"));
    assert_eq!(parse("Type=dir;Modify=20240131123456; ..").unwrap().name, "..");
    assert_eq!(parse("type=OS.unix=slink:/x; link").unwrap().kind, Kind::Link);
    assert_eq!((parse("type=cdir; ."), parse("type=pdir; ..")), (None, None));
    assert_eq!(parse(" name only").unwrap().name, "name only");
    assert_eq!(parse("nonsense").unwrap().kind, Kind::Unknown);
}

#[test]
fn what_is_no_entry_and_what_is_unknown() {
    for line in ["", "total 12", "drwxr-xr-x 2 u g 4096 Jan 1 2024 .", "drwxr-xr-x 2 u g 4096 Jan 1 2024 .."] {
        assert_eq!(list_line(line.as_bytes(), now()), None, "{line}");
    }
    for line in [
        "total x",
        "-rw-r--r-- 1 u g x Jan 1 2024 y",
        "-rw-r--r-- 1 u g 5 Jan 32 2024 y",
        "some text",
        "-rw-r--r-- 1 u g 5 Jan 1 2024",
    ] {
        let entry = list(line);
        assert_eq!((entry.kind, entry.name.to_string()), (Kind::Unknown, line.into()));
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let named = |name: &str| Entry::new(b"", name.as_bytes(), Kind::File).safe_name();
    assert_eq!(named("a b\"'\\").unwrap(), "a b\"'\\");
    for name in ["", ".", "..", "/", "a/b", "../x", "a\0"] {
        assert!(named(name).is_err(), "{name:?}");
    }
}

#[test]
fn the_same_file_has_the_size_and_is_not_older() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "12345").unwrap();
    let mut entry = Entry::new(b"", b"x", Kind::File);
    assert!(!entry.same_as(file.path()), "of unknown size");
    entry.size = Some(5);
    assert!(entry.same_as(file.path()));
    entry.modified = at("20240101000000");
    assert!(entry.same_as(file.path()));
    entry.modified = SystemTime::now().checked_add(Duration::from_secs(60));
    assert!(!entry.same_as(file.path()));
    assert!(!entry.same_as("/nosuch"));
}

#[test]
fn the_last_part_of_a_path() {
    assert_eq!(last_part(b"/a/b"), "b");
    assert_eq!(last_part(b"b"), "b");
    assert_eq!(last_part(b"a/"), "");
}

mod printed {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = String> {
        "[^/\0\r\n]{1,20}".prop_filter("it stands for something else", |name| {
            // In a listing of ls, that is where the target of a link begins; those of directories are left out.
            name != "." && name != ".." && !name.contains(" -> ")
        })
    }

    fn time(seconds: u64) -> (SystemTime, glib::DateTime) {
        let seconds = seconds / 60 * 60;
        let printed = glib::DateTime::from_unix_utc(i64::try_from(seconds).unwrap()).unwrap();
        (UNIX_EPOCH + Duration::from_secs(seconds), printed)
    }

    const MONTH_NAMES: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

    proptest! {
        #[test]
        fn nothing_panics(line: Vec<u8>) {
            check(&line);
        }

        #[test]
        fn what_ls_prints(name in names(), size: u64, days in 1u64..170, is_directory: bool) {
            let (modified, date) = time(1_710_504_000 - days * 86_400);
            let month = MONTH_NAMES[date.month() as usize - 1];
            let letter = if is_directory { 'd' } else { '-' };
            let (day, hour, minute) = (date.day_of_month(), date.hour(), date.minute());
            let line = format!("{letter}rwxr-xr-x 1 owner group {size:>12} {month} {day:>2} {hour:02}:{minute:02} {name}");
            let entry = list_line(line.as_bytes(), now()).unwrap();
            let kind = if is_directory { Kind::Directory } else { Kind::File };
            prop_assert_eq!(summary(&entry), (kind, name, Some(size), Some(modified)));
        }

        #[test]
        fn what_dir_prints(name in names(), size: u64, seconds in 0u64..4_000_000_000) {
            let (modified, date) = time(seconds);
            let (hour, half) = ((date.hour() + 11) % 12 + 1, if date.hour() < 12 { "AM" } else { "PM" });
            let (month, day, year) = (date.month(), date.day_of_month(), date.year());
            let line = format!("{month:02}-{day:02}-{year}  {hour:02}:{:02}{half} {size:>20} {name}", date.minute());
            let entry = list_line(line.as_bytes(), now()).unwrap();
            prop_assert_eq!(summary(&entry), (Kind::File, name, Some(size), Some(modified)));
        }

        #[test]
        fn what_eplf_prints(name in names(), size: u64, seconds in 0u64..4_000_000_000) {
            let line = format!("+i1.2,m{seconds},r,s{size},\t{name}");
            let entry = list_line(line.as_bytes(), now()).unwrap();
            let modified = UNIX_EPOCH + Duration::from_secs(seconds);
            prop_assert_eq!(summary(&entry), (Kind::File, name, Some(size), Some(modified)));
        }

        #[test]
        fn what_mlsd_prints(name in names(), size: u64, seconds in 0u64..4_000_000_000) {
            let (modified, date) = time(seconds);
            let modify = date.format("%Y%m%d%H%M%S").unwrap();
            let entry = fact_line(format!("type=file;size={size};modify={modify}; {name}").as_bytes()).unwrap();
            prop_assert_eq!(summary(&entry), (Kind::File, name, Some(size), Some(modified)));
        }
    }
}
