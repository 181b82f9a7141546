//! Whose call it is: the peer's address or, behind proxies that are trusted, the one they vouch for.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;
use serde::Deserialize;

/// The proxies in front of this node and how they say for whom they call.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    /// Their networks.
    pub(super) trusted: Networks,
    /// The header they write.
    pub(super) header: ForwardedHeader,
}

/// Networks as `10.0.0.0/8,2001:db8::/32`; a lone address is a network of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Networks(Vec<IpNet>);

impl TryFrom<String> for Networks {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let parse = |entry: &str| {
            let network = entry.parse::<IpNet>().ok().or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from));
            network.ok_or_else(|| format!("'{entry}' is neither an address nor a network such as 10.0.0.0/8"))
        };
        entries.map(parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Networks {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Where proxies write for whom they call. Only the one they really write may be believed: clients can send the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: client, proxy`
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239)
    Forwarded,
}

impl Proxies {
    /// The address nearest to this node that is no trusted proxy. Every proxy appends the address it was called from, so
    /// what stands left of an untrusted address is that client's own claim.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        if !self.trusted.contains(nearest) {
            return nearest;
        }
        let name = match self.header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let lines: Vec<_> = headers.get_all(name).iter().collect();
        for line in lines.into_iter().rev() {
            for element in line.as_bytes().rsplit(|&byte| byte == b',') {
                let Some(address) = std::str::from_utf8(element).ok().and_then(|text| self.address(text)) else {
                    return nearest;
                };
                nearest = address;
                if !self.trusted.contains(nearest) {
                    return nearest;
                }
            }
        }
        nearest
    }

    fn address(&self, element: &str) -> Option<IpAddr> {
        let node = match self.header {
            ForwardedHeader::XForwardedFor => element,
            ForwardedHeader::Forwarded => element.split(';').find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                name.trim().eq_ignore_ascii_case("for").then_some(value)
            })?,
        };
        let node = node.trim().trim_matches('"');
        let bare = node.strip_prefix('[').and_then(|node| node.strip_suffix(']')).unwrap_or(node);
        let address = bare.parse::<IpAddr>().ok();
        let with_port = || node.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
        address.or_else(with_port).map(|address| address.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// A header's name and value.
    type Line = (&'static str, &'static str);

    const PROXY: &str = "10.1.2.3";

    fn client(peer: &str, header: ForwardedHeader, lines: &[Line]) -> String {
        let trusted = Networks::try_from("10.0.0.0/8, 2001:db8::/32, 192.0.2.7".to_owned()).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        Proxies { trusted, header }.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let x = ForwardedHeader::XForwardedFor;
        let cases: [(&str, &[Line], &str); 10] = [
            ("203.0.113.9", &[("x-forwarded-for", "198.51.100.1")], "203.0.113.9"),
            (PROXY, &[("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            ("::ffff:10.1.2.3", &[("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            (PROXY, &[("x-forwarded-for", "1.1.1.1, 198.51.100.1, 192.0.2.7")], "198.51.100.1"),
            (PROXY, &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            (PROXY, &[("x-forwarded-for", "198.51.100.1:4711, [2001:db8::1]:80")], "198.51.100.1"),
            (PROXY, &[("x-forwarded-for", "1.1.1.1, nonsense, 10.9.9.9")], "10.9.9.9"),
            (PROXY, &[("x-forwarded-for", "10.0.0.1, 10.0.0.2")], "10.0.0.1"),
            (PROXY, &[("forwarded", "for=198.51.100.1")], PROXY),
            (PROXY, &[], PROXY),
        ];
        for (peer, lines, expected) in cases {
            assert_eq!(client(peer, x, lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn the_standard_s_header_is_read_where_it_is_the_configured_one() {
        let cases = [
            ("for=1.1.1.1, For=\"[2001:db9::5]:4711\";proto=https;by=10.0.0.1", "2001:db9::5"),
            ("proto=https;for=198.51.100.1, for=10.0.0.2", "198.51.100.1"),
            ("for=_hidden", PROXY),
            ("for=\"1.1.1.1, for=198.51.100.1", "198.51.100.1"),
        ];
        for (value, expected) in cases {
            let lines = [("forwarded", value), ("x-forwarded-for", "1.2.3.4")];
            assert_eq!(client(PROXY, ForwardedHeader::Forwarded, &lines), expected, "{value}");
        }
    }

    #[test]
    fn a_wrong_network_is_named() {
        let error = Networks::try_from("10.0.0.0/8,10.0.0.0/99".to_owned()).unwrap_err();
        assert!(error.contains("'10.0.0.0/99'"), "{error}");
        assert_eq!(Networks::try_from(String::new()).unwrap(), Networks::default());
    }
}
