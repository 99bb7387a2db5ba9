"""Who may connect, subscribe, publish and read.

Answers for: every decision about a client's rights, from tokens, from the rules of namespaces, from personal
channels, and the answer on the wire that each refusal has. Refuses to know: connections beyond their user and id, and
what happens after a yes.

The order is upstream's: the namespace exists, a token decides alone, then the owner of a personal channel, then the
rules, and last `insecure`, which lets everything pass that a token does not forbid.
"""

from __future__ import annotations

from hubbub.auth import TokenVerifier
from hubbub.channels import ChannelRules, Namespaces, PersonalChannels
from hubbub.core.hooks import Caller
from hubbub.errors import Disconnect, DisconnectCode, Expired, PermissionDenied, TokenExpired, TokenInvalid
from hubbub.model import Credentials, Grant, PersonalSubscription


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
        self._verifier = verifier or TokenVerifier("")  # which believes nothing

    def connect(self, token: str, time: float) -> Credentials:
        """Who connects. Raises TokenExpired (109), Expired (110), or Disconnect 3500 (invalid) or 3501 (nobody)."""
        if token:
            credentials = self._verified(token, time)
        elif self.insecure or self.anonymous:
            credentials = Credentials()
        else:
            raise Disconnect(
                DisconnectCode.BAD_REQUEST,
                detail="no token; auth.anonymous = true would let such clients in, with what the rules allow anyone",
            )
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
        if not allowed and not self.insecure:
            raise PermissionDenied
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

    def publish(self, caller: Caller, channel: str, *, subscribed: bool) -> ChannelRules:
        """The rules to publish under. Raises PermissionDenied (103)."""
        rules = self.namespaces.resolve(channel)
        if not self.insecure and (rules.publish != "anyone" or self.personal.template):
            allowed = rules.may_publish(channel, caller.user, subscribed=subscribed)
            self._require(allowed and self._is_not_anothers(caller, channel))
        return rules

    def read(self, caller: Caller, channel: str, *, subscribed: bool) -> ChannelRules:
        """The rules to read history and presence under. Raises PermissionDenied (103)."""
        rules = self.namespaces.resolve(channel)
        allowed = rules.may_read(channel, caller.user, subscribed=subscribed)
        self._require(allowed and self._is_not_anothers(caller, channel))
        return rules

    def ttl(self, expire_at: float, time: float) -> int | None:
        """Seconds that are left, for the client to refresh in time; None for ever. In insecure mode nothing expires."""
        return max(1, int(expire_at - time)) if expire_at and not self.insecure else None

    def _is_past(self, expire_at: float, time: float) -> bool:
        return 0 < expire_at <= time and not self.insecure

    def _require(self, allowed: bool) -> None:
        if not allowed and not self.insecure:
            raise PermissionDenied

    def _is_not_anothers(self, caller: Caller, channel: str) -> bool:
        owner = self.personal.owner(channel)
        return owner is None or owner == caller.user

    def _verified(self, token: str, time: float) -> Credentials:
        try:
            return self._verifier.connection(token, time)
        except TokenInvalid as error:
            raise Disconnect(DisconnectCode.INVALID_TOKEN, detail=str(error)) from None

    def _grant(self, caller: Caller, channel: str, token: str, time: float) -> Grant:
        grant = self._verifier.subscription(token, time)
        if grant.channel != channel or grant.user != caller.user or grant.client not in ("", caller.id):
            raise Disconnect(
                DisconnectCode.INVALID_TOKEN, detail="the subscription token is for another channel or user"
            )
        return grant

    def _completed(self, credentials: Credentials) -> Credentials:
        """With the personal channel; and without an end where nothing expires."""
        subs = dict(credentials.subs)
        personal = self.personal.of(credentials.user)
        if personal is not None:
            subs.setdefault(personal, PersonalSubscription())
        expire_at = 0.0 if self.insecure else credentials.expire_at
        return Credentials(credentials.user, expire_at, credentials.info, credentials.data, subs)
