//! Keys that live in an HSM and never leave it: the only room that speaks PKCS#11.
//!
//! Every operation opens a session of its own, logs in with the PIN from its file, and closes it again, so that nothing is
//! held while the HSM is away. After a failure the module is started afresh: a token that came back is found again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

/// Length of the initialisation vector, in bytes (SP 800-38D §5.2.1.1).
pub(super) const IV_LEN: usize = 12;
/// Length of a sealed unlock key: 32 bytes and the tag.
pub(super) const SEALED_LEN: usize = 32 + 16;
/// Length of a key's name in the HSM.
pub(super) const KEY_ID_LEN: usize = 16;

const TAG_BITS: u64 = 128;

/// Where an HSM is, and its PIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HsmPlace {
    /// The PKCS#11 module: a shared library of the HSM's maker.
    pub module: PathBuf,
    /// Label or serial number of the token in it.
    pub token: String,
    /// A file with the user's PIN on its first line; it is read whenever the PIN is needed, and never kept.
    pub pin_file: PathBuf,
}

/// What can go wrong with an HSM. No text holds a PIN or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HsmError {
    /// The module does not load.
    #[error("the PKCS#11 module {module} does not load ({why}): correct its path, or install it")]
    Module {
        /// Its path.
        module: String,
        /// What the system said.
        why: String,
    },
    /// There is no such token.
    #[error(
        "there is no HSM token `{token}`: plug it in, or name it by its label or its serial number as the module lists it"
    )]
    NoToken {
        /// What was looked for.
        token: String,
    },
    /// There are several.
    #[error("several HSM tokens are called `{token}`: name the right one by its serial number")]
    ManyTokens {
        /// What was looked for.
        token: String,
    },
    /// The PIN cannot be read.
    #[error("the PIN file {file} cannot be used ({why}): write the PIN on its first line")]
    PinFile {
        /// Its path.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The PIN is wrong, now or when it was last tried.
    #[error(
        "the HSM token `{token}` refused the PIN in {file}: correct the file. The same PIN is not tried again, so that the \
         token does not lock itself"
    )]
    WrongPin {
        /// Which.
        token: String,
        /// Where the PIN is from.
        file: String,
    },
    /// The token takes no PIN any more.
    #[error("the HSM token `{token}` has locked itself after wrong PINs: unblock it with its maker's tools")]
    PinLocked {
        /// Which.
        token: String,
    },
    /// A key is not there.
    #[error(
        "the key that this slot was sealed with is not in the HSM token `{token}`: it is another token, or the key was \
         destroyed. Use another root slot"
    )]
    KeyGone {
        /// Where it was looked for.
        token: String,
    },
    /// What the HSM would have to do is not what it does.
    #[error("the HSM token `{token}` cannot keep the keys of a root slot ({why}): use another one")]
    Unfit {
        /// Which.
        token: String,
        /// What is missing.
        why: &'static str,
    },
    /// The HSM refused an operation.
    #[error("the HSM token `{token}` failed ({why}): see to it; what waits for it is finished by itself")]
    Failed {
        /// Which.
        token: String,
        /// What the module said.
        why: String,
    },
}

/// An HSM token that seals with keys of its own.
#[derive(Clone, Debug)]
pub struct Hsm(Arc<HsmPlace>);

impl Hsm {
    /// The token at this place; it is not touched yet.
    pub fn new(place: HsmPlace) -> Self {
        Self(Arc::new(place))
    }

    /// Where it is.
    pub fn place(&self) -> &HsmPlace {
        &self.0
    }

    /// Makes a fresh AES-256 key that cannot be taken out.
    ///
    /// # Errors
    /// [`HsmError::Unfit`] if the token would hand the key out; those of a session.
    pub(super) fn make_key(&self, label: &str, id: &[u8; KEY_ID_LEN]) -> Result<(), HsmError> {
        self.with_session(|session| {
            let template = [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::ValueLen(32.into()),
                Attribute::Label(label.as_bytes().to_vec()),
                Attribute::Id(id.to_vec()),
            ];
            let key = session.generate_key(&Mechanism::AesKeyGen, &template).map_err(|error| self.failed(&error))?;
            let kept = self.is_kept(session, key)?;
            if !kept {
                session.destroy_object(key).map_err(|error| self.failed(&error))?;
                return Err(self.unfit("its keys can be taken out"));
            }
            Ok(())
        })
    }

    /// Seals 32 bytes with the key of this id, bound to `aad`, and tries what was sealed.
    ///
    /// # Errors
    /// [`HsmError::Unfit`] if the token does not authenticate `aad`; [`HsmError::KeyGone`]; those of a session.
    pub(super) fn seal(
        &self,
        id: &[u8; KEY_ID_LEN],
        iv: &[u8; IV_LEN],
        aad: &[u8],
        plaintext: &[u8; 32],
    ) -> Result<[u8; SEALED_LEN], HsmError> {
        self.with_session(|session| {
            let key = self.find(session, id)?;
            let mut iv_copy = *iv;
            let params = gcm(&mut iv_copy, aad);
            let sealed = session.encrypt(&params, key, plaintext).map_err(|error| self.failed(&error))?;
            let sealed = <[u8; SEALED_LEN]>::try_from(sealed).map_err(|_| self.unfit("its AES-GCM has no full tag"))?;
            if self.unseal(session, key, iv, aad, &sealed)?.as_slice() != plaintext {
                return Err(self.unfit("its AES-GCM does not open what it sealed"));
            }
            let other = [aad, b"?"].concat();
            match self.unseal(session, key, iv, &other, &sealed) {
                Ok(_) => Err(self.unfit("its AES-GCM does not check the additional data")),
                Err(_) => Ok(sealed),
            }
        })
    }

    /// Opens what [`Hsm::seal`] sealed.
    ///
    /// # Errors
    /// [`HsmError::KeyGone`]; [`HsmError::Failed`] for changed bytes, too; those of a session.
    pub(super) fn open(
        &self,
        id: &[u8; KEY_ID_LEN],
        iv: &[u8; IV_LEN],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        self.with_session(|session| {
            let key = self.find(session, id)?;
            self.unseal(session, key, iv, aad, sealed)
        })
    }

    /// Destroys every key of this label but those to `keep`, which must be there, and sees that they are gone. Answers how many there were.
    ///
    /// # Errors
    /// [`HsmError::Failed`] if one stays; those of a session.
    pub(super) fn destroy_all_but(&self, label: &str, keep: &[[u8; KEY_ID_LEN]]) -> Result<usize, HsmError> {
        self.with_session(|session| {
            let doomed = self.others(session, label, keep)?;
            for &key in &doomed {
                session.destroy_object(key).map_err(|error| self.failed(&error))?;
            }
            if !self.others(session, label, keep)?.is_empty() {
                return Err(self.unfit("a key that it destroyed is still there"));
            }
            Ok(doomed.len())
        })
    }

    /// How many keys it has, whoever's they are.
    #[cfg(test)]
    pub(super) fn count_keys(&self) -> Result<usize, HsmError> {
        self.with_session(|session| {
            let found = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)]);
            found.map(|keys| keys.len()).map_err(|error| self.failed(&error))
        })
    }

    fn others(&self, session: &Session, label: &str, keep: &[[u8; KEY_ID_LEN]]) -> Result<Vec<ObjectHandle>, HsmError> {
        let of_label = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.as_bytes().to_vec())];
        let mut others = session.find_objects(&of_label).map_err(|error| self.failed(&error))?;
        for id in keep {
            let kept = self.find(session, id)?;
            others.retain(|&key| key != kept);
        }
        Ok(others)
    }

    fn find(&self, session: &Session, id: &[u8; KEY_ID_LEN]) -> Result<ObjectHandle, HsmError> {
        let template = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Id(id.to_vec())];
        let found = session.find_objects(&template).map_err(|error| self.failed(&error))?;
        found.first().copied().ok_or_else(|| HsmError::KeyGone { token: self.0.token.clone() })
    }

    fn is_kept(&self, session: &Session, key: ObjectHandle) -> Result<bool, HsmError> {
        let asked = [AttributeType::Sensitive, AttributeType::NeverExtractable];
        let told = session.get_attributes(key, &asked).map_err(|error| self.failed(&error))?;
        Ok(told.contains(&Attribute::Sensitive(true)) && told.contains(&Attribute::NeverExtractable(true)))
    }

    fn unseal(
        &self,
        session: &Session,
        key: ObjectHandle,
        iv: &[u8; IV_LEN],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let mut iv = *iv;
        let params = gcm(&mut iv, aad);
        session.decrypt(&params, key, sealed).map(Zeroizing::new).map_err(|error| self.failed(&error))
    }

    fn with_session<T>(&self, work: impl FnOnce(&Session) -> Result<T, HsmError>) -> Result<T, HsmError> {
        let module = Module::of(&self.0.module)?;
        let mut state = module.state();
        let done = self.session(&module, &mut state).and_then(|session| work(&session));
        if matches!(done, Err(HsmError::NoToken { .. } | HsmError::Failed { .. } | HsmError::KeyGone { .. })) {
            // The module may not notice that a token was exchanged or came back; it does when it starts.
            state.stop(&module.library);
        }
        done
    }

    /// A session that is logged in.
    fn session(&self, module: &Module, state: &mut ModuleState) -> Result<Session, HsmError> {
        state.start(&module.library).map_err(|error| self.failed(&error))?;
        let slot = self.slot(&module.library)?;
        let session = module.library.open_rw_session(slot).map_err(|error| self.failed(&error))?;
        self.log_in(&session, state)?;
        Ok(session)
    }

    fn slot(&self, library: &Pkcs11) -> Result<Slot, HsmError> {
        let token = &self.0.token;
        let mut found = Vec::new();
        for slot in library.get_slots_with_initialized_token().map_err(|error| self.failed(&error))? {
            let Ok(info) = library.get_token_info(slot) else { continue };
            if info.label() == token || info.serial_number() == token {
                found.push(slot);
            }
        }
        match found[..] {
            [slot] => Ok(slot),
            [] => Err(HsmError::NoToken { token: token.clone() }),
            _ => Err(HsmError::ManyTokens { token: token.clone() }),
        }
    }

    fn log_in(&self, session: &Session, state: &mut ModuleState) -> Result<(), HsmError> {
        let HsmPlace { token, pin_file, .. } = &*self.0;
        let unusable =
            |why: std::io::Error| HsmError::PinFile { file: pin_file.display().to_string(), why: why.to_string() };
        let written = pin_file.metadata().and_then(|meta| meta.modified()).map_err(unusable)?;
        let wrong = || HsmError::WrongPin { token: token.clone(), file: pin_file.display().to_string() };
        let tried = (token.clone(), pin_file.clone());
        if state.refused.get(&tried) == Some(&written) {
            return Err(wrong());
        }
        let text = Zeroizing::new(std::fs::read_to_string(pin_file).map_err(unusable)?);
        let pin = AuthPin::new(text.lines().next().unwrap_or_default().into());
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                state.refused.remove(&tried);
                Ok(())
            }
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                state.refused.insert(tried, written);
                Err(wrong())
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => Err(HsmError::PinLocked { token: token.clone() }),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &Error) -> HsmError {
        match error {
            Error::Pkcs11(RvError::MechanismInvalid | RvError::MechanismParamInvalid, _) => {
                self.unfit("it has no AES-GCM with an initialisation vector from outside")
            }
            _ => HsmError::Failed { token: self.0.token.clone(), why: error.to_string() },
        }
    }

    fn unfit(&self, why: &'static str) -> HsmError {
        HsmError::Unfit { token: self.0.token.clone(), why }
    }
}

fn gcm<'a>(iv: &'a mut [u8; IV_LEN], aad: &'a [u8]) -> Mechanism<'a> {
    Mechanism::AesGcm(GcmParams::new(iv, aad, TAG_BITS.into()).expect("lengths below 4 GiB fit any number"))
}

/// A loaded module. There is one for each library in a process, whoever asks: PKCS#11 starts it once.
struct Module {
    library: Pkcs11,
    /// Held over every operation, so that none runs while another starts the module afresh.
    state: Mutex<ModuleState>,
}

#[derive(Default)]
struct ModuleState {
    started: bool,
    /// PIN files whose PIN a token refused, and when they were written: it is not tried again until they change.
    refused: BTreeMap<(String, PathBuf), SystemTime>,
}

static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

impl Module {
    fn of(path: &Path) -> Result<Arc<Self>, HsmError> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(path) {
            return Ok(module.clone());
        }
        let library = Pkcs11::new(path).map_err(|error| {
            let why = match error {
                Error::LibraryLoading(why) => why.to_string(),
                other => other.to_string(),
            };
            HsmError::Module { module: path.display().to_string(), why }
        })?;
        let module = Arc::new(Self { library, state: Mutex::default() });
        modules.insert(path.to_owned(), module.clone());
        Ok(module)
    }

    fn state(&self) -> MutexGuard<'_, ModuleState> {
        // Nothing is left half-changed in there by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ModuleState {
    fn start(&mut self, library: &Pkcs11) -> Result<(), Error> {
        if !self.started {
            match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => self.started = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn stop(&mut self, library: &Pkcs11) {
        // One that does not stop is found started the next time, and used as it is.
        self.started = library.clone().finalize().is_err();
    }
}
