"""A channel for each user, which nobody else can listen to; tokens say who somebody is.

    pip install hubbub fastapi "uvicorn[standard]"
    HUBBUB_AUTH_HMAC_SECRET=$(openssl rand -hex 32) uvicorn examples.notifications:app

A page fetches its token from /token, connects with it, and is subscribed to its own channel without asking:

    const client = new Centrifuge("ws://localhost:8000/connection/websocket", {getToken});
    client.on("publication", ({data}) => alert(data.text));
"""

import dataclasses

from fastapi import FastAPI

from hubbub import Hubbub, Publication

hub = Hubbub(auth={"personal_channel": "user:{user}"}, channels={"user": {"delivery": "recent"}})
app = FastAPI(lifespan=hub.lifespan)


@dataclasses.dataclass
class Notification:
    """What is published in `user:…`."""

    text: str


@app.post("/token")
async def token(user: str) -> str:
    """A real application takes the user from its session, and not from whoever asks."""
    return hub.token(user, ttl=3600)


@app.post("/notify/{user}")
async def notify(user: str, notification: Notification) -> int:
    """Returns how many of the user's pages are open; who is away gets it on coming back."""
    await hub.publish(f"user:{user}", notification)
    return await hub.subscribers(f"user:{user}")


@app.post("/logout/{user}")
async def logout(user: str) -> int:
    """Tokens that were issued so far are good for nothing from here on."""
    return await hub.revoke(user)


@hub.on("user:*")
async def log(publication: Publication[Notification]) -> None:
    """Back-end code hears it, too."""
    print(f"{publication.channel}: {publication.data.text}", flush=True)


app.mount("/", hub.asgi())
