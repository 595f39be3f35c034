//! The variables of the environment that name proxies.

use super::except::Exceptions;
use super::hop::Hop;

/// The proxies that the environment names.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    https: Option<Named>,
    http: Option<Named>,
    all: Option<Named>,
}

/// A proxy, or the variable that is malformed and its problem.
type Named = Result<Hop, String>;

/// The kinds of connections that have variables of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    /// Any protocol over TLS.
    Tls,
    /// HTTP in plaintext, by the scheme of the address.
    Http,
    /// Any other protocol in plaintext.
    Other,
}

impl Environment {
    /// Reads the variables, and the exceptions in `no_proxy`.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> (Environment, Exceptions) {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let named = |names: &[&str]| {
            names.iter().find_map(|name| {
                let hop = Hop::parse(set(name)?.trim(), Some("http"));
                Some(hop.map_err(|problem| format!("invalid proxy in the variable {name}: {problem}")))
            })
        };
        let environment = Environment {
            https: named(&["https_proxy", "HTTPS_PROXY"]),
            // A CGI server sets HTTP_PROXY from the header "Proxy" of a request.
            http: named(&["http_proxy"]),
            all: named(&["all_proxy", "ALL_PROXY"]),
        };
        let mut exceptions = Exceptions::default();
        for name in ["no_proxy", "NO_PROXY"] {
            let Some(list) = set(name) else { continue };
            exceptions.add_list(&list);
            exceptions.ignored = exceptions.ignored.map(|problem| format!("variable {name}: {problem}"));
            break;
        }
        (environment, exceptions)
    }

    /// Returns the proxy for this kind of connection.
    pub(super) fn proxy(&self, traffic: Traffic) -> Option<Named> {
        let own = match traffic {
            Traffic::Tls => &self.https,
            Traffic::Http => &self.http,
            Traffic::Other => &None,
        };
        own.as_ref().or(self.all.as_ref()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> [String; 3] {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        let (environment, _) = Environment::read(find);
        [Traffic::Tls, Traffic::Http, Traffic::Other].map(|traffic| match environment.proxy(traffic) {
            None => "-".into(),
            Some(Ok(hop)) => hop.to_string(),
            Some(Err(problem)) => problem,
        })
    }

    #[test]
    fn the_usual_variables() {
        let (one, two) = ("http://one:1", "socks5h://two:2");
        for (variables, tls, http, other) in [
            (vec![], "-", "-", "-"),
            (vec![("https_proxy", "one:1")], one, "-", "-"),
            (vec![("HTTPS_PROXY", one)], one, "-", "-"),
            (vec![("https_proxy", two), ("HTTPS_PROXY", one)], two, "-", "-"),
            (vec![("http_proxy", one)], "-", one, "-"),
            (vec![("HTTP_PROXY", one)], "-", "-", "-"),
            (vec![("ALL_PROXY", two)], two, two, two),
            (vec![("all_proxy", two), ("http_proxy", one)], two, one, two),
            (vec![("all_proxy", ""), ("https_proxy", " ")], "-", "-", "-"),
        ] {
            assert_eq!(proxies(&variables), [tls, http, other], "{variables:?}");
        }
        let [.., other] = proxies(&[("all_proxy", "\0")]);
        assert!(other.contains("all_proxy") && other.contains("expected a host"), "{other}");
        let [tls, ..] = proxies(&[("https_proxy", "ftp://user:sesam@x")]);
        assert!(tls.contains("https_proxy") && !tls.contains("sesam"), "{tls}");
    }

    #[test]
    fn no_proxy_is_a_list() {
        let read = |list: &str| Environment::read(|name| (name == "NO_PROXY").then(|| list.into())).1;
        let exceptions = read("localhost, .lan,10.0.0.0/8 a.test");
        assert!(exceptions.have_name("x.lan", 1) && exceptions.have_name("a.test", 1));
        assert!(exceptions.have_address([10, 1, 1, 1].into(), 1) && !exceptions.have_name("b.test", 1));
        assert!(read("*").have_name("any", 1));
        let exceptions = read("10.0.0.0/99, a.test");
        let problem = exceptions.ignored.as_ref().unwrap();
        assert!(problem.starts_with("variable NO_PROXY: invalid exception"), "{problem}");
        assert!(exceptions.invalid.is_none() && exceptions.have_name("a.test", 1));
    }
}
