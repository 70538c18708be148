//! The small kinds: calendar dates, IP addresses, positions.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::json;

const DATE: &str = "a calendar date as YYYY-MM-DD";
const IP: &str = "an IPv4 or IPv6 address without port, prefix or zone";
const LOCATION: &str = "an object of exactly `lat` (-90 to 90) and `lon` (-180 to 180), both numbers of degrees";

/// A real date of the years 1 to 9999, written exactly so.
pub(super) fn date(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    let text = json::text(raw).ok_or(DATE)?;
    let (year, month, day) = date_parts(&text).ok_or(DATE)?;
    let real = year > 0 && jiff::civil::Date::new(year, month, day).is_ok();
    if real { Ok(json::quote(&text)) } else { Err(DATE) }
}

fn date_parts(text: &str) -> Option<(i16, i8, i8)> {
    let shape = |(i, b): (usize, u8)| match i {
        4 | 7 => b == b'-',
        _ => b.is_ascii_digit(),
    };
    if text.len() != 10 || !text.bytes().enumerate().all(shape) {
        return None;
    }
    let year = text[..4].parse().ok()?;
    Some((year, text[5..7].parse().ok()?, text[8..].parse().ok()?))
}

/// The normal form is the shortest one (RFC 5952); an IPv4 address mapped into IPv6 becomes the IPv4 address.
pub(super) fn ip(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    let text = json::text(raw).ok_or(IP)?;
    let address: IpAddr = text.parse().map_err(|_| IP)?;
    Ok(json::quote(&Zeroizing::new(address.to_canonical().to_string())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLocation<'a> {
    #[serde(borrow)]
    lat: &'a RawValue,
    #[serde(borrow)]
    lon: &'a RawValue,
}

/// The normal form has `lat` first and both numbers in their shortest plain spelling.
pub(super) fn location(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    let (lat, lon) = coordinates(raw).ok_or(LOCATION)?;
    Ok(Zeroizing::new(format!("{{\"lat\":{lat},\"lon\":{lon}}}")))
}

/// Latitude and longitude in degrees, if `raw` is a position.
pub(super) fn coordinates(raw: &str) -> Option<(f64, f64)> {
    // A sequence would do for the derived reader as well.
    if !json::is_object(raw) {
        return None;
    }
    let location: RawLocation<'_> = serde_json::from_str(raw).ok()?;
    Some((degrees(location.lat, 90.0)?, degrees(location.lon, 180.0)?))
}

/// Read from the number's own spelling, for `serde_json` rounds the last digit differently.
fn degrees(raw: &RawValue, limit: f64) -> Option<f64> {
    let number: f64 = raw.get().parse().ok()?;
    // Adding zero turns -0 into 0; a NaN or an infinity fails the comparison.
    (number.abs() <= limit).then_some(number + 0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dates_are_real() {
        for good in ["\"1937-12-20\"", "\"2024-02-29\"", "\"2000-02-29\"", "\"0001-01-01\""] {
            assert_eq!(*date(good).unwrap(), good);
        }
        for bad in [
            "\"2023-02-29\"",
            "\"1900-02-29\"",
            "\"1999-13-01\"",
            "\"1999-00-10\"",
            "\"1999-04-31\"",
            "\"0000-01-01\"",
            "\"1999-1-1\"",
            "\"19990101\"",
            "\"1999/01/01\"",
            "\"01-01-1999\"",
            "\"1999-01-01T00:00:00Z\"",
            "\"1999-01-01 \"",
            "\"+999-01-01\"",
            "\"١٩٩٩-٠١-٠١\"",
            "\"-123-01-01\"",
            "\"éé99-01-1\"",
            "19990101",
            "null",
            "\"\"",
        ] {
            assert_eq!(date(bad), Err(DATE), "{bad}");
        }
    }

    #[test]
    fn ip_addresses_are_shortest() {
        for (raw, normal) in [
            ("\"214.3.10.24\"", "\"214.3.10.24\""),
            ("\"2001:DB8:0:0::1\"", "\"2001:db8::1\""),
            ("\"::ffff:1.2.3.4\"", "\"1.2.3.4\""),
            ("\"::\"", "\"::\""),
        ] {
            assert_eq!(*ip(raw).unwrap(), normal);
        }
        for bad in [
            "\"1.2.3\"",
            "\"1.2.3.256\"",
            "\"01.2.3.4\"",
            "\"1.2.3.4:80\"",
            "\"1.2.3.0/24\"",
            "\"fe80::1%eth0\"",
            "\"[::1]\"",
            "\" 1.2.3.4\"",
            "\"localhost\"",
            "16909060",
            "\"\"",
            "null",
        ] {
            assert_eq!(ip(bad), Err(IP), "{bad}");
        }
    }

    #[test]
    fn locations_are_on_earth() {
        for (raw, normal) in [
            ("{\"lat\": -47.76309, \"lon\": 29.80368}", "{\"lat\":-47.76309,\"lon\":29.80368}"),
            ("{\"lon\":-180,\"lat\":90.0}", "{\"lat\":90,\"lon\":-180}"),
            ("{\"lat\":-0.0,\"lon\":1e1}", "{\"lat\":0,\"lon\":10}"),
            ("{\"lat\":1e-7,\"lon\":0.10}", "{\"lat\":0.0000001,\"lon\":0.1}"),
        ] {
            assert_eq!(*location(raw).unwrap(), normal);
        }
        for bad in [
            "{\"lat\":90.0000001,\"lon\":0}",
            "{\"lat\":0,\"lon\":-180.1}",
            "{\"lat\":0}",
            "{\"lat\":0,\"lon\":0,\"alt\":1}",
            "{\"lat\":\"0\",\"lon\":0}",
            "{\"lat\":null,\"lon\":0}",
            "{\"lat\":0,\"lat\":0,\"lon\":0}",
            "{\"lat\":1e999,\"lon\":0}",
            "{\"lat\":NaN,\"lon\":0}",
            "{\"lat\":[0],\"lon\":0}",
            "[0,0]",
            "\"0,0\"",
            "{}",
            "0",
            "null",
            "",
        ] {
            assert_eq!(location(bad), Err(LOCATION), "{bad}");
        }
    }
}
