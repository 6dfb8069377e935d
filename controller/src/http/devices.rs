//! Devices: what they say of themselves, what they rest on, and what operators do to them.

use axum::Json;
use axum::extract::State;
use ensign_api::{Base64, Change, Device, DeviceDetail, DeviceEvidence, ErrorDocument, Why};
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};

use super::auth::Caller;
use super::error::{Answer, ApiError, Path, Raw};
use super::{App, blocking};
use crate::core::{Verb, read_document};
use crate::roles::Permission;

/// Every device.
#[utoipa::path(get, path = "/v1/devices", tag = "devices", responses((status = 200, body = Vec<Device>)))]
pub(super) async fn list(State(app): State<App>, caller: Caller) -> Answer<Vec<Device>> {
    caller.require(Permission::Read)?;
    let devices = app.core.read(|state| {
        let mut devices: Vec<Device> = state.devices.values().map(|row| state.view_device(row)).collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        devices
    });
    Ok(Json(devices.await?))
}

/// One device, by id, unique prefix or name.
#[utoipa::path(get, path = "/v1/devices/{device}", tag = "devices", params(("device" = String, Path)),
    responses((status = 200, body = DeviceDetail), (status = 404, body = ErrorDocument)))]
pub(super) async fn show(State(app): State<App>, caller: Caller, Path(device): Path<String>) -> Answer<DeviceDetail> {
    caller.require(Permission::Read)?;
    let detail = app.core.read(move |state| {
        let id = state.find_device(&device)?;
        Ok::<_, Refusal>(state.view_detail(state.device(&id)?))
    });
    Ok(Json(detail.await??))
}

/// The rule that decides about a device just now.
#[utoipa::path(get, path = "/v1/devices/{device}/why", tag = "devices", params(("device" = String, Path)),
    responses((status = 200, body = Why), (status = 404, body = ErrorDocument)))]
pub(super) async fn why(State(app): State<App>, caller: Caller, Path(device): Path<String>) -> Answer<Why> {
    caller.require(Permission::Read)?;
    let why = app.core.read(move |state| {
        let id = state.find_device(&device)?;
        state.view_device_why(&id)
    });
    Ok(Json(why.await??))
}

/// What each device's place in the fleet rests on.
#[utoipa::path(get, path = "/v1/evidence", tag = "devices", responses((status = 200, body = Vec<DeviceEvidence>)))]
pub(super) async fn evidence(State(app): State<App>, caller: Caller) -> Answer<Vec<DeviceEvidence>> {
    caller.require(Permission::Read)?;
    let rows = app
        .core
        .read(|state| {
            let mut rows: Vec<_> = state.devices.values().cloned().collect();
            for row in &mut rows {
                // As it is signed now, not as it was when the device joined.
                if let Some(token) = state.tokens.get(&row.token) {
                    row.token_grant = token.grant;
                }
            }
            rows
        })
        .await?;
    let store = app.parts.documents.clone();
    let evidence = blocking(move || {
        // Devices that joined with one token share its grant.
        let mut grants = std::collections::BTreeMap::<Digest, Base64>::new();
        let read = |digest: &Digest| read_document(store.as_ref(), digest).map(Base64);
        let mut evidence = Vec::with_capacity(rows.len());
        for row in rows {
            let token_grant = match grants.get(&row.token_grant) {
                Some(grant) => grant.clone(),
                None => grants.entry(row.token_grant).or_insert(read(&row.token_grant)?).clone(),
            };
            evidence.push(DeviceEvidence {
                device: row.id,
                name: row.name,
                state: row.state,
                binding: read(&row.binding)?,
                token_grant,
                grant: row.grant.map(|s| read(&s.digest)).transpose()?,
                hold: row.hold.map(|s| read(&s.digest)).transpose()?,
            });
        }
        Ok(evidence)
    });
    Ok(Json(evidence.await?))
}

/// `accept`, `reject`, `suspend`, `unsuspend`, `revoke` with a reason; `grant`, `hold` with an envelope.
#[utoipa::path(post, path = "/v1/devices/{device}/{verb}", tag = "devices",
    params(("device" = String, Path), ("verb" = String, Path)), request_body = Change,
    responses((status = 200, body = Device), (status = 404, body = ErrorDocument), (status = 422, body = ErrorDocument)))]
pub(super) async fn act(
    State(app): State<App>,
    caller: Caller,
    Path((device, verb)): Path<(String, String)>,
    Raw(body): Raw,
) -> Answer<Device> {
    let action = Action::parse(&verb, &body)?;
    caller.require(action.permission())?;
    let changed = app.core.change(move |state| {
        let id = state.find_device(&device)?;
        match &action {
            Action::Standing(verb, reason) => state.set_standing(&id, *verb, reason, &caller.name)?,
            Action::Grant(envelope) => state.grant(&id, envelope)?,
            Action::Hold(envelope) => state.hold(&id, envelope, &caller.name)?,
        }
        Ok(state.view_device(state.device(&id)?))
    });
    Ok(Json(changed.await?))
}

enum Action {
    Standing(Verb, String),
    Grant(Vec<u8>),
    Hold(Vec<u8>),
}

impl Action {
    fn parse(verb: &str, body: &[u8]) -> Result<Self, ApiError> {
        let standing = |verb| Ok(Self::Standing(verb, reason(body)?));
        match verb {
            "accept" => standing(Verb::Accept),
            "reject" => standing(Verb::Reject),
            "suspend" => standing(Verb::Suspend),
            "unsuspend" => standing(Verb::Unsuspend),
            "revoke" => standing(Verb::Revoke),
            "grant" => Ok(Self::Grant(body.to_vec())),
            "hold" => Ok(Self::Hold(body.to_vec())),
            _ => Err(Refusal::new(Code::NotFound, "there is no such verb for devices").into()),
        }
    }

    const fn permission(&self) -> Permission {
        match self {
            Self::Standing(Verb::Accept | Verb::Reject, _) | Self::Grant(_) => Permission::Enroll,
            Self::Standing(..) | Self::Hold(_) => Permission::Brake,
        }
    }
}

/// The reason in a [`Change`]; an empty body has none.
pub(super) fn reason(body: &[u8]) -> Result<String, ApiError> {
    if body.is_empty() {
        return Ok(String::new());
    }
    serde_json::from_slice::<Change>(body)
        .map(|change| change.reason)
        .map_err(|e| Refusal::new(Code::Usage, format!("not a change: {e}")).into())
}
