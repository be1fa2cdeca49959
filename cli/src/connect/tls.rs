//! Which certificates a connection goes by, where its URL names none.

use std::path::PathBuf;

use url::Url;

/// Files in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Of whoever signs the servers' certificates; else the system's are taken.
    pub ca_cert: Option<PathBuf>,
    /// The client's own.
    pub client_cert: Option<PathBuf>,
    /// The key to that.
    pub client_key: Option<PathBuf>,
}

impl Tls {
    /// A Redis URL with these files as parameters, if it is for TLS.
    pub(super) fn for_redis(&self, url: &str) -> String {
        if url.starts_with("rediss:") {
            self.add(url, ["ca", "cert", "key"])
        } else {
            url.to_owned()
        }
    }

    /// A Postgres URL with these files as parameters.
    pub(super) fn for_postgres(&self, url: &str) -> String {
        self.add(url, ["sslrootcert", "sslcert", "sslkey"])
    }

    fn add(&self, text: &str, names: [&str; 3]) -> String {
        let Ok(mut url) = Url::parse(text) else { return text.to_owned() };
        let files = [&self.ca_cert, &self.client_cert, &self.client_key];
        for (name, file) in names.into_iter().zip(files) {
            let named = url.query_pairs().any(|(known, _)| known == name);
            if let Some(file) = file.as_ref().filter(|_| !named) {
                url.query_pairs_mut().append_pair(name, &file.to_string_lossy());
            }
        }
        url.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_added_where_the_url_names_none() {
        let tls = Tls {
            ca_cert: Some("/etc/a b.pem".into()),
            client_cert: Some("/c.pem".into()),
            client_key: Some("/k.pem".into()),
        };
        assert_eq!(tls.for_redis("redis://h"), "redis://h");
        assert_eq!(
            tls.for_redis("rediss://u:p@h/1?ca=/own.pem"),
            "rediss://u:p@h/1?ca=/own.pem&cert=%2Fc.pem&key=%2Fk.pem"
        );
        assert_eq!(
            tls.for_postgres("postgres://h/d?sslmode=verify-full&sslcert=x&sslkey=y"),
            "postgres://h/d?sslmode=verify-full&sslcert=x&sslkey=y&sslrootcert=%2Fetc%2Fa+b.pem"
        );
        assert_eq!(Tls::default().for_postgres("postgres://h/d"), "postgres://h/d");
    }
}
