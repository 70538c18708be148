//! `check-config`: say what is wrong with a configuration, or what it comes to.

use std::path::Path;

use super::{Failure, variables};
use crate::config::Config;
use crate::serve::say;
use crate::site::Site;
use crate::tls;

pub(super) fn run(path: &Path) -> Result<(), Failure> {
    let config = Config::load(path, variables())?;
    let mut scheme = "http";
    if let (Some(cert), Some(key)) = (&config.tls.cert, &config.tls.key) {
        tls::load(cert, key)?;
        scheme = "https";
    }
    let site = Site::of_config(&config);
    let start = match &site.unlock {
        Some(source) => {
            source.read()?;
            "unlocked by what is configured"
        }
        None => "locked",
    };
    say(&format!("the configuration is good: {scheme}://{}, starts {start}", config.server.listen));
    for slot in site.slots_beside_store() {
        note!("warning: the root slot {slot} is on the same disk as the store: one image of that disk holds both");
    }
    Ok(())
}
