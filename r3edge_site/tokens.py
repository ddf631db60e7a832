"""API tokens: made for a name and password, shown once, stored as digests, ended by their owner or by time."""

from __future__ import annotations

import logging
import re
from typing import Any, cast

import redis
from django.conf import settings
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.db.models import QuerySet
from drf_spectacular.authentication import BasicScheme
from drf_spectacular.utils import OpenApiParameter, extend_schema
from knox.auth import TokenAuthentication
from knox.models import AuthToken
from rest_framework import exceptions, mixins, permissions, serializers
from rest_framework.authentication import BaseAuthentication, BasicAuthentication, SessionAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from pipeline.rest import NewestFirst, Rows

logger = logging.getLogger(__name__)

# Enough of a digest to tell one's tokens apart.
PREFIX_LENGTH = 12
PREFIX = re.compile(f"[0-9a-f]{{{PREFIX_LENGTH}}}")
WINDOW_SECONDS = 60
REFUSAL = "wanted the name and password of an active user, was something else"
ATTEMPTS_PER_WINDOW = 10


class AttemptsPerAddress(BaseThrottle):
    """At most so many attempts a minute from one address, counted for all web processes together."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        key = f"r3edge:token-attempts:{self.get_ident(request)}"
        client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)
        try:
            with client.pipeline() as pipe:
                pipe.incr(key)
                pipe.expire(key, WINDOW_SECONDS, nx=True)
                attempts, _ = pipe.execute()
        except redis.RedisError as error:
            # Nobody is locked out because Redis is away: passwords are hashed slowly besides.
            logger.warning("attempts to get a token are not counted (%s)", type(error).__name__)
            return True
        finally:
            client.close()
        return bool(attempts <= ATTEMPTS_PER_WINDOW)

    def wait(self) -> float:
        return WINDOW_SECONDS


class PasswordAuthentication(BasicAuthentication):
    """HTTP Basic, for getting a token only."""

    def authenticate_credentials(self, userid: str, password: str, request: Request | None = None) -> tuple[User, None]:
        if "\0" in userid:  # the database takes no such text, and nobody is called so
            raise exceptions.AuthenticationFailed(REFUSAL)
        return cast("tuple[User, None]", super().authenticate_credentials(userid, password, request))


class PasswordScheme(BasicScheme):  # type: ignore[misc]
    """What the schema says of it."""

    target_class = PasswordAuthentication


class CredentialsSerializer(serializers.Serializer[Any]):
    """Left out when the request is authenticated already, by a session or by HTTP Basic."""

    username = serializers.CharField(max_length=150, write_only=True)
    password = serializers.CharField(
        max_length=4096, trim_whitespace=False, write_only=True, style={"input_type": "password"}
    )


class TokenSerializer(serializers.Serializer[AuthToken]):
    id = serializers.SerializerMethodField(help_text="The beginning of its digest.")
    created_at = serializers.DateTimeField(source="created", read_only=True)
    expires_at = serializers.DateTimeField(source="expiry", read_only=True, allow_null=True)

    def get_id(self, token: AuthToken) -> str:
        return str(token.digest)[:PREFIX_LENGTH]


class NewTokenSerializer(TokenSerializer):
    token = serializers.CharField(help_text="Shown this once. Send it as `Authorization: Token <token>`.")


class NewestTokenFirst(NewestFirst):
    ordering = "-created"


class TokenViewSet(mixins.ListModelMixin, mixins.DestroyModelMixin, Rows[AuthToken]):
    """One's own API tokens."""

    queryset = AuthToken.objects.all()
    serializer_class = TokenSerializer
    pagination_class = NewestTokenFirst
    lookup_url_kwarg = "id"

    def get_authenticators(self) -> list[BaseAuthentication]:
        # A token cannot make another: one that leaked would then never expire.
        if self.request is not None and self.request.method == "POST":
            return [PasswordAuthentication(), SessionAuthentication()]
        return [TokenAuthentication(), SessionAuthentication()]

    def get_permissions(self) -> list[Any]:
        return [permissions.AllowAny()] if self.action == "create" else [permissions.IsAuthenticated()]

    def perform_authentication(self, request: Request) -> None:
        # Counted before anybody is authenticated: HTTP Basic is a password to be guessed as much as one in the body.
        attempts = AttemptsPerAddress()
        if self.action == "create" and not attempts.allow_request(request, self):
            self.throttled(request, attempts.wait())
        super().perform_authentication(request)

    def get_queryset(self) -> QuerySet[AuthToken]:
        return cast("QuerySet[AuthToken]", AuthToken.objects.filter(user=self.request.user.pk))

    def get_object(self) -> AuthToken:
        prefix = self.kwargs["id"]
        token = self.get_queryset().filter(digest__startswith=prefix).first() if PREFIX.fullmatch(prefix) else None
        if token is None:
            raise exceptions.NotFound
        return token

    @extend_schema(request=CredentialsSerializer, responses={201: NewTokenSerializer})
    def create(self, request: Request) -> Response:
        """A new token, for a name and password in the body or by HTTP Basic, or for the session one is logged in with."""
        user = request.user if request.user.is_authenticated else self._user_of(request)
        token, secret = AuthToken.objects.create(user=user)
        return Response({**TokenSerializer(token).data, "token": secret}, status=201)

    @extend_schema(parameters=[OpenApiParameter("id", str, "path", description="The beginning of its digest.")])
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """End a token now."""
        return super().destroy(request, *args, **kwargs)

    def _user_of(self, request: Request) -> User:
        credentials = CredentialsSerializer(data=request.data)
        credentials.is_valid(raise_exception=True)
        user = authenticate(request, **credentials.validated_data)
        if user is None:
            raise exceptions.AuthenticationFailed(REFUSAL)
        return user
