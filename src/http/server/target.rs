//! Paths, queries and forms: pure functions.

/// Decodes `%XX`. `None` where the digits are missing or the result is not UTF-8. In forms, `+` is a blank.
fn decode(text: &str, is_form: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if is_form => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

/// Decodes the path of a target, once.
///
/// # Errors
/// Why it cannot be served: malformed, or it climbs.
pub(super) fn path(encoded: &str) -> Result<String, &'static str> {
    let path = decode(encoded, false).ok_or("the path is not percent-encoded UTF-8")?;
    if path.contains('\0') {
        return Err("the path contains NUL");
    }
    if path.split(['/', '\\']).any(|segment| segment == "..") {
        return Err("the path contains ..");
    }
    Ok(path)
}

/// The pairs of a query or a form, decoded as HTML forms encode them. A part without `=` is a key with an empty value. What is
/// not UTF-8 or not encoded as it should be is left as it is.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let plain = |text: &str| decode(text, true).unwrap_or_else(|| text.to_owned());
    text.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (plain(key), plain(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        for (encoded, decoded) in [
            ("/", "/"),
            ("/a%20b", "/a b"),
            ("/%2525", "/%25"),
            ("/%c3%a4", "/ä"),
            ("/a+b", "/a+b"),
            ("/a/..b/c..", "/a/..b/c.."),
        ] {
            assert_eq!(path(encoded).as_deref(), Ok(decoded), "{encoded}");
        }
        for encoded in
            ["/%", "/%2", "/%zz", "/%ff", "/%00", "/..", "/../x", "/a/%2e%2e/x", "/a%2f..%2fx", "/a/..%5cx", "/%+1"]
        {
            assert!(path(encoded).is_err(), "{encoded}");
        }
        // Decoded once: this is no climbing.
        assert_eq!(path("/%252e%252e/").as_deref(), Ok("/%2e%2e/"));
    }

    #[test]
    fn pairs_of_queries() {
        let all = |text| pairs(text).collect::<Vec<_>>();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            all("a=1&b=x+y%21&&c&=d&a=2"),
            [pair("a", "1"), pair("b", "x y!"), pair("c", ""), pair("", "d"), pair("a", "2")]
        );
        assert_eq!(all("a=%zz&b=%ff"), [pair("a", "%zz"), pair("b", "%ff")]);
        assert_eq!(all(""), []);
    }

    proptest! {
        #[test]
        fn what_passes_never_climbs(encoded in "(/|%2f|%2E|\\.|a|%5c|\\\\|%00|%25){0,12}") {
            if let Ok(path) = path(&encoded) {
                prop_assert!(!path.contains('\0'));
                prop_assert!(std::path::Path::new(&path).components().all(|part| part != std::path::Component::ParentDir));
            }
        }

        #[test]
        fn whatever_is_encoded_is_decoded(text in "\\PC*") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decode(&encoded, false), Some(text.clone()));
            prop_assert_eq!(pairs(&format!("k={encoded}")).next(), Some(("k".to_owned(), text)));
        }
    }
}
