"""Who may connect, subscribe, publish and read.

Answers for: every decision about a client's rights, from tokens, from the rules of namespaces, from personal
channels, and the answer on the wire that each refusal has. Refuses to know: connections beyond their user and id, and
what happens after a yes.

The order is upstream's: the namespace exists, a token decides alone, then the owner of a personal channel, then the
rules, and last `insecure`, which lets everything pass that a token does not forbid.
"""

from __future__ import annotations

import logging

import msgspec

from hubbub.auth import TokenVerifier
from hubbub.channels import ChannelRules, Namespaces, PersonalChannels
from hubbub.core.hooks import Caller
from hubbub.core.revocations import Revocations
from hubbub.errors import (
    BadRequest,
    Disconnect,
    DisconnectCode,
    Expired,
    PermissionDenied,
    TokenExpired,
    TokenInvalid,
    UnknownChannel,
)
from hubbub.model import Credentials, Grant, PersonalSubscription
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)


class Access:
    """The doorman of one node. Times are Unix seconds."""

    def __init__(
        self,
        namespaces: Namespaces,
        verifier: TokenVerifier | None = None,
        *,
        personal: PersonalChannels | None = None,
        anonymous: bool = False,
        insecure: bool = False,
    ) -> None:
        self.namespaces = namespaces
        self.personal = personal or PersonalChannels()
        self.anonymous = anonymous
        self.insecure = insecure
        self.revocations = Revocations()
        self._sparing = SparingLog(log)
        self._verifier = verifier or TokenVerifier("")  # which believes nothing

    def connect(self, token: str, time: float) -> Credentials:
        """Who connects. Raises TokenExpired (109), Expired (110), or Disconnect 3500 (invalid) or 3501 (nobody)."""
        if token:
            credentials = self._verified(token, time)
        elif self.insecure or self.anonymous:
            credentials = Credentials()
        else:
            why = "auth.anonymous = true would let such clients in, with what the rules allow anyone"
            self._sparing.warning("no token", time, "a client without a token is refused: " + why)
            raise Disconnect(DisconnectCode.BAD_REQUEST, detail=f"no token; {why}")
        if self._is_past(credentials.expire_at, time):
            raise Expired
        return self._completed(credentials)

    async def start(self) -> None:
        """Begin to fetch what tokens are verified with, if it stands elsewhere. Waits some seconds at most."""
        await self._verifier.start()

    async def stop(self) -> None:
        """End fetching. Idempotent."""
        await self._verifier.stop()

    @property
    def verifies(self) -> bool:
        """Whether tokens say who somebody is; else they are the application's affair."""
        return self._verifier.has_keys

    def accept(self, credentials: Credentials, time: float) -> Credentials:
        """Who the application says connects. Raises Expired (110)."""
        if self._is_past(credentials.expire_at, time):
            raise Expired
        return self._completed(credentials)

    def refresh(self, caller: Caller, token: str, time: float) -> Credentials:
        """The same user, for longer. Raises Disconnect 3500 (invalid, or somebody else's) or 3005 (expired)."""
        try:
            credentials = self._verified(token, time)
        except TokenExpired:
            raise Disconnect(DisconnectCode.CONNECTION_EXPIRED) from None
        if self._is_past(credentials.expire_at, time):
            raise Disconnect(DisconnectCode.CONNECTION_EXPIRED)
        if credentials.user != caller.user:
            raise Disconnect(DisconnectCode.INVALID_TOKEN, detail="the refreshed token is another user's")
        return self._completed(credentials)

    def subscribe(self, caller: Caller, channel: str, token: str, time: float) -> Grant:
        """The right to subscribe. Raises PermissionDenied (103), TokenExpired (109), Expired (110), Disconnect 3500."""
        rules = self.namespaces.resolve(channel)
        if token:
            try:
                grant = self._grant(caller, channel, token, time)
            except TokenInvalid as error:
                raise PermissionDenied from error
            if self._is_past(grant.expire_at, time):
                raise Expired
            return grant
        owner = self.personal.owner(channel)
        allowed = rules.may_subscribe(channel, caller.user) if owner is None else owner == caller.user
        self._require(allowed, "" if owner else "subscribe", rules.subscribe)
        return Grant(channel, caller.user)

    def sub_refresh(self, caller: Caller, channel: str, token: str, time: float) -> Grant:
        """The same subscription, for longer. Raises Disconnect 3500 (invalid) or 3006 (expired)."""
        try:
            grant = self._grant(caller, channel, token, time)
        except TokenExpired:
            raise Disconnect(DisconnectCode.SUBSCRIPTION_EXPIRED) from None
        except TokenInvalid as error:
            raise Disconnect(DisconnectCode.INVALID_TOKEN, detail=str(error)) from None
        if self._is_past(grant.expire_at, time):
            raise Disconnect(DisconnectCode.SUBSCRIPTION_EXPIRED)
        return grant

    def publish(self, caller: Caller, channel: str, subscribed: bool) -> ChannelRules:
        """The rules to publish under. Raises PermissionDenied (103)."""
        rules = self.namespaces.resolve(channel)
        if not self.insecure and (rules.publish != "anyone" or self.personal.template):
            allowed = rules.may_publish(channel, caller.user, subscribed=subscribed)
            self._require(allowed, "publish", rules.publish)
            self._require(self._is_not_anothers(caller, channel))
        return rules

    def read(self, caller: Caller, channel: str, *, subscribed: bool) -> ChannelRules:
        """The rules to read history and presence under. Raises PermissionDenied (103)."""
        rules = self.namespaces.resolve(channel)
        allowed = rules.may_read(channel, caller.user, subscribed=subscribed)
        self._require(allowed, "read", rules.read)
        self._require(self._is_not_anothers(caller, channel))
        return rules

    def ttl(self, expire_at: float, time: float) -> int | None:
        """Seconds that are left, for the client to refresh in time; None for ever. In insecure mode nothing expires."""
        return max(1, int(expire_at - time)) if expire_at and not self.insecure else None

    def _is_past(self, expire_at: float, time: float) -> bool:
        return 0 < expire_at <= time and not self.insecure

    def _require(self, allowed: bool, rule: str = "", value: str = "") -> None:
        if not allowed and not self.insecure:
            raise PermissionDenied(
                f"permission denied: {rule} = {value!r} in the rules of this channel" if rule else ""
            )

    def _is_not_anothers(self, caller: Caller, channel: str) -> bool:
        owner = self.personal.owner(channel)
        return owner is None or owner == caller.user

    def _verified(self, token: str, time: float) -> Credentials:
        try:
            credentials = self._verifier.connection(token, time)
        except TokenInvalid as error:
            raise Disconnect(DisconnectCode.INVALID_TOKEN, detail=str(error)) from None
        if self.revocations.refuses(credentials.user, credentials.issued_at, time):
            raise TokenExpired("token revoked")  # its holder is to get another one, if it can
        return credentials

    def _grant(self, caller: Caller, channel: str, token: str, time: float) -> Grant:
        grant = self._verifier.subscription(token, time)
        if grant.channel != channel or grant.user != caller.user or grant.client not in ("", caller.id):
            text = (
                "a subscription token is refused: it is for channel %r of user %r, and came with channel %r of user %r"
            )
            self._sparing.warning("another's", time, text, grant.channel, grant.user, channel, caller.user)
            raise Disconnect(
                DisconnectCode.INVALID_TOKEN, detail="the subscription token is for another channel or user"
            )
        if self.revocations.refuses(grant.user, grant.issued_at, time):
            raise TokenExpired("token revoked")
        return grant

    def _require_channel(self, personal: str, user: str) -> None:
        """Not every name of a user makes the name of a channel."""
        try:
            self.namespaces.resolve(personal)
        except (UnknownChannel, BadRequest) as error:
            template = self.personal.template
            raise BadRequest(
                f"auth.personal_channel = {template!r} makes no channel for the user {user!r}: {error.message}"
            ) from None

    def _completed(self, credentials: Credentials) -> Credentials:
        """With the personal channel; and without an end where nothing expires."""
        subs = dict(credentials.subs)
        personal = self.personal.of(credentials.user)
        if personal is not None:
            self._require_channel(personal, credentials.user)
            subs.setdefault(personal, PersonalSubscription())
        expire_at = 0.0 if self.insecure else credentials.expire_at
        return msgspec.structs.replace(credentials, expire_at=expire_at, subs=subs)
