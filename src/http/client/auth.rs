//! Credentials and how they are shown to a server.

use std::cell::RefCell;
use std::rc::Rc;

use ::http::{HeaderMap, HeaderValue, header};

use super::url::{Origin, Url};
use crate::connect::proxy::challenge::{self, Challenge};

/// Credentials of a client.
pub(super) enum Auth {
    /// The value of `Authorization`.
    Fixed(HeaderValue),
    Digest {
        user: String,
        password: String,
        /// The last challenge that was answered, of which server, and how often.
        known: RefCell<Option<(Rc<Origin>, Challenge, u32)>>,
    },
}

impl Auth {
    pub(super) fn bearer(token: &str) -> Result<Self, String> {
        if token.is_empty() {
            return Err("the bearer token must not be empty".into());
        }
        fixed(&format!("Bearer {token}")).ok_or_else(|| {
            "the bearer token has a line break, or another character that no header field may have".into()
        })
    }

    pub(super) fn basic(user: &str, password: &str) -> Result<Self, String> {
        if user.contains(':') {
            return Err("the user name of Basic authentication must not contain a colon".into());
        }
        Ok(Auth::Fixed(basic(user, password)))
    }

    pub(super) fn digest(user: &str, password: &str) -> Self {
        Auth::Digest { user: user.into(), password: password.into(), known: RefCell::new(None) }
    }

    /// Returns the value of `Authorization`, as far as it is known before the server asks.
    pub(super) fn value(&self, method: &str, url: &Url) -> Option<HeaderValue> {
        match self {
            Auth::Fixed(value) => Some(value.clone()),
            Auth::Digest { user, password, known } => {
                let mut known = known.borrow_mut();
                let (origin, challenge, count) = known.as_mut()?;
                if *origin != url.origin {
                    return None;
                }
                *count = count.checked_add(1)?;
                sensitive(&challenge.answer(user, password, method, &url.target, *count)?)
            }
        }
    }

    /// Takes the challenge of a 401. Returns whether the request is to be made again; `has_answered` says that it had answered to
    /// one already.
    pub(super) fn challenged(&self, headers: &HeaderMap, url: &Url, has_answered: bool) -> bool {
        let Auth::Digest { known, .. } = self else { return false };
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = challenge::digest(values) else { return false };
        if has_answered && !challenge.is_stale() {
            return false;
        }
        known.replace(Some((url.origin.clone(), challenge, 0)));
        true
    }
}

/// Returns the value of `Authorization` for Basic.
pub(super) fn basic(user: &str, password: &str) -> HeaderValue {
    let encoded = glib::base64_encode(format!("{user}:{password}").as_bytes());
    sensitive(&format!("Basic {encoded}")).unwrap_or(HeaderValue::from_static(""))
}

fn fixed(value: &str) -> Option<Auth> {
    sensitive(value).map(Auth::Fixed)
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
