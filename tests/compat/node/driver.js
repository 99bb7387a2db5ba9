// Lets the tests, which are written in Python, hold official JavaScript clients: in Node and in a browser alike.
//
// `makeDriver(makeClient, emit)` returns `call(operation, args)`. What a client tells goes to
// `emit({client, channel, event, context})`; `channel` is empty for events of the client itself. Contexts have the
// names that the Python side uses for all SDKs.
//
// `payload` says what the tests' data is to the SDK: "json" as it is, "text" JSON in bytes (Protobuf), "base64" bytes.

"use strict";

globalThis.makeDriver = (makeClient, emit) => {
  const clients = new Map();

  const codecs = {
    json: { encode: (data) => data, decode: (data) => data },
    text: {
      encode: (data) => new TextEncoder().encode(JSON.stringify(data)),
      decode: (bytes) => JSON.parse(new TextDecoder().decode(bytes)),
    },
    base64: {
      encode: (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0)),
      decode: (bytes) => btoa(String.fromCharCode(...bytes)),
    },
  };

  // Absent is null, and so are the empty bytes that Protobuf cannot tell from absent ones.
  const decoded = (codec, data) => (data == null || data.length === 0 ? null : codec.decode(data));

  // In Protobuf a uint64 is an object, and zero may be absent.
  const number = (value) => Number(value ?? 0);

  const info = (codec, from) =>
    from == null
      ? null
      : {
          client: from.client,
          user: from.user,
          conn_info: decoded(codec, from.connInfo),
          chan_info: decoded(codec, from.chanInfo),
        };

  const publication = (codec, from) => ({
    data: decoded(codec, from.data),
    offset: number(from.offset),
    info: info(codec, from.info),
    tags: from.tags ?? {},
  });

  const contexts = {
    connecting: (codec, { code, reason }) => ({ code, reason }),
    connected: (codec, { client, data }) => ({ client, data: decoded(codec, data) }),
    disconnected: (codec, { code, reason }) => ({ code, reason }),
    error: (codec, { error }) => ({ code: error.code, message: error.message }),
    message: (codec, { data }) => ({ data: decoded(codec, data) }),
    subscribing: (codec, { channel }) => ({ channel }),
    subscribed: (codec, context) => ({
      channel: context.channel,
      recoverable: context.recoverable,
      positioned: context.positioned,
      offset: number(context.streamPosition?.offset),
      epoch: context.streamPosition?.epoch ?? "",
      was_recovering: context.wasRecovering,
      recovered: context.recovered,
    }),
    unsubscribed: (codec, { channel, code, reason }) => ({ channel, code: code ?? null, reason: reason ?? null }),
    publication: (codec, context) => ({ channel: context.channel, ...publication(codec, context) }),
    join: (codec, context) => ({ channel: context.channel, info: info(codec, context.info) }),
    leave: (codec, context) => ({ channel: context.channel, info: info(codec, context.info) }),
  };

  const listen = (source, codec, client, channel) => {
    for (const [event, shape] of Object.entries(contexts)) {
      source.on(event, (context) => emit({ client, channel, event, context: shape(codec, context) }));
    }
  };

  // A getToken that hands out these tokens in their order, and says when it is asked.
  const dispenser = (tokens, client, channel) => {
    if (tokens == null) return null; // undefined would count as a function
    return async () => {
      emit({ client, channel, event: "get_token", context: {} });
      if (!tokens.length) throw new Error("no token is left");
      return tokens.shift();
    };
  };

  const since = (from) => (from == null ? undefined : { offset: from.offset, epoch: from.epoch });

  const operations = {
    open({ client: name, url, protobuf, payload, token, tokens, data, delays }) {
      const codec = codecs[payload];
      const client = makeClient(url, protobuf, {
        token: token ?? "",
        getToken: dispenser(tokens, name, ""),
        data: data == null ? null : codec.encode(data),
        minReconnectDelay: delays[0],
        maxReconnectDelay: delays[1],
      });
      clients.set(name, { client, codec });
      listen(client, codec, name, "");
    },
    connect: ({ client }) => clients.get(client).client.connect(),
    disconnect: ({ client }) => clients.get(client).client.disconnect(),
    set_token: ({ client, token }) => clients.get(client).client.setToken(token),
    state: ({ client }) => clients.get(client).client.state,
    subscribe({ client: name, channel, token, tokens, join_leave, recoverable, since: start, delays }) {
      const { client, codec } = clients.get(name);
      let subscription = client.getSubscription(channel);
      if (subscription === null) {
        subscription = client.newSubscription(channel, {
          token: token ?? "",
          getToken: dispenser(tokens, name, channel),
          joinLeave: join_leave,
          recoverable,
          since: since(start),
          minResubscribeDelay: delays[0],
          maxResubscribeDelay: delays[1],
        });
        listen(subscription, codec, name, channel);
      }
      subscription.subscribe();
    },
    unsubscribe: ({ client, channel }) => clients.get(client).client.getSubscription(channel).unsubscribe(),
    async publish({ client: name, channel, data }) {
      const { client, codec } = clients.get(name);
      await client.publish(channel, codec.encode(data));
    },
    async rpc({ client: name, method, data }) {
      const { client, codec } = clients.get(name);
      return decoded(codec, (await client.rpc(method, codec.encode(data))).data);
    },
    async send({ client: name, data }) {
      const { client, codec } = clients.get(name);
      await client.send(codec.encode(data));
    },
    async history({ client: name, channel, limit, since: start, reverse }) {
      const { client, codec } = clients.get(name);
      const page = await client.history(channel, { limit, since: since(start), reverse });
      const publications = page.publications.map((item) => publication(codec, item));
      return { publications, offset: number(page.offset), epoch: page.epoch };
    },
    async presence({ client: name, channel }) {
      const { client, codec } = clients.get(name);
      const { clients: members } = await client.presence(channel);
      return Object.fromEntries(Object.entries(members).map(([id, member]) => [id, info(codec, member)]));
    },
    async presence_stats({ client, channel }) {
      const { numClients, numUsers } = await clients.get(client).client.presenceStats(channel);
      return { clients: numClients, users: numUsers };
    },
    // Several commands in one frame, as an application that batches sends them.
    async batch({ client: name, channel, data }) {
      const { client, codec } = clients.get(name);
      client.startBatching();
      const answers = data.map((item) => client.publish(channel, codec.encode(item)));
      client.stopBatching();
      await Promise.all(answers);
    },
    // Everything in one turn of the event loop: connect and subscribe leave in one frame.
    connect_and_subscribe(args) {
      operations.subscribe(args);
      operations.connect(args);
    },
    // Faster than any answer can come.
    flap({ client, channel, times }) {
      const subscription = clients.get(client).client.getSubscription(channel);
      for (let turn = 0; turn < times; turn += 1) {
        subscription.unsubscribe();
        subscription.subscribe();
      }
    },
  };

  return async (operation, args) => {
    try {
      return { result: (await operations[operation](args)) ?? null };
    } catch (error) {
      return { error: { code: error.code ?? -1, message: error.message ?? String(error) } };
    }
  };
};
