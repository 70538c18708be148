//! `lock` and `unlock`: dropping the root key from memory, and bringing it back.

use serde::Serialize;

use super::Context;
use crate::args::UnlockArgs;
use crate::client::{Answer, Client};
use crate::exit::{Exit, Failure};
use crate::secret;

/// Locks the vault.
pub(crate) fn lock(context: &Context) -> Result<Exit, Failure> {
    let answer = context.client()?.post_empty("/v1/lock")?;
    told(context, &answer, "locked: nothing can be read until it is unlocked")
}

#[derive(Serialize)]
struct Passphrase<'a> {
    passphrase: &'a str,
}

#[derive(Serialize)]
struct ConfiguredKey {}

/// Unlocks the vault by passphrase, which needs no API token, or by the key its server is configured with.
pub(crate) fn unlock(args: &UnlockArgs, context: &Context) -> Result<Exit, Failure> {
    let answer = if args.configured_key {
        context.client()?.post("/v1/unlock", &ConfiguredKey {})?
    } else {
        // Resolved first: nobody should type a passphrase for an address that cannot be used.
        let client = Client::anonymous(&context.connection()?)?;
        let passphrase = secret::read_passphrase(args.passphrase_file.as_deref())?;
        let body = Passphrase { passphrase: &passphrase };
        client.post("/v1/unlock", &body)?
    };
    told(context, &answer, "unlocked")
}

fn told(context: &Context, answer: &Answer, words: &str) -> Result<Exit, Failure> {
    if context.ui.wants_json() {
        context.ui.line(answer.text()?)?;
    } else {
        context.ui.note(words);
    }
    Ok(Exit::Done)
}
