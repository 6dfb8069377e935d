//! What most verbs need: the context, its trust state, and the controller.

use std::sync::Arc;

use crate::client::Client;
use crate::failure::Result;
use crate::home::{Context, Home};
use crate::output::Shell;
use crate::scopes;
use crate::trust::Trust;
use ensign_bundle::digest::FleetId;
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, Document};

/// One run of the command.
#[derive(Debug)]
pub struct App {
    pub shell: Shell,
    pub home: Home,
}

/// A fleet and its controller.
#[derive(Debug)]
pub struct Session {
    pub context: Context,
    pub trust: Trust,
    pub client: Arc<Client>,
}

impl App {
    /// The current fleet. Nothing has been asked of the controller yet.
    pub fn session(&self) -> Result<Session> {
        let context = self.home.current()?;
        let trust = Trust::load(&context)?;
        let address = self.shell.controller.as_deref().unwrap_or(&context.file.address);
        let pins = trust.root().controller.api.clone();
        let client = Client::new(address, pins, &context.api_token()?)?.following(&context.trust_path());
        self.shell
            .detail(&format!("fleet {}, controller {}", context.file.name, client.address()));
        Ok(Session {
            context,
            trust,
            client: Arc::new(client),
        })
    }

    /// The same with the controller's newest metadata: before anything is signed.
    pub async fn signing_session(&self) -> Result<Session> {
        let mut session = self.session()?;
        session.trust.refresh(&session.client).await?;
        Ok(session)
    }
}

impl Session {
    pub fn fleet(&self) -> FleetId {
        self.context.file.fleet
    }

    /// Follows the controller's metadata where it answers. Where nobody does, what is held is still verified and never goes back: keys may
    /// live where no controller can be reached. True = it answered.
    pub async fn refresh_if_reached(&mut self) -> Result<bool> {
        match self.trust.refresh(&self.client).await {
            Ok(()) => Ok(true),
            Err(e) if e.code == Code::ControllerUnreachable => {
                Shell::warn(&format!("{e}; judged by the metadata that was last seen"));
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Signs a statement with the deploy key of this machine.
    pub fn sign_deploy<T: Document>(&self, statement: &T) -> Result<Vec<u8>> {
        let scopes: Vec<_> = self.trust.root().scopes.iter().collect();
        let key = scopes::signer(self, None, &scopes, "statements")?.secret()?;
        Ok(statement::sign(statement, &[&key], &self.fleet())?)
    }
}
