/**
 * The frame's end of the port: reads what the page around asks, has it done, and answers. What is malformed is answered
 * with a refusal; who keeps on, or asks too fast, is not heard any more.
 */
import { toFailure } from '../errors.ts';
import {
  limits,
  meter,
  readRequest,
  refuse,
  type Answers,
  type Call,
  type Events,
  type Reply,
  type Request,
  type WidgetToken,
} from './protocol.ts';

/** Does what is asked. `tell` hands on a token of the answer that `generate` is writing. */
export type Desk = {
  [C in Call]: (
    request: Extract<Request, { call: C }>,
    tell: (token: WidgetToken) => void,
  ) => Promise<Answers[C]>;
};

/** A MessagePort, as far as it is used. */
export type Port = Pick<MessagePort, 'onmessage' | 'postMessage' | 'close' | 'addEventListener'>;

export interface Line {
  /** Tell the page around; nothing once the line is cut. */
  say<E extends keyof Events>(name: E, value: Events[E]): void;
  /** Hear and answer nothing more. */
  cut(): void;
}

/**
 * Serve what comes through `port`. `onCut` is called, once, with the reason when the other side misbehaved; answers that
 * are under way then end unheard.
 */
export function serve(
  port: Port,
  desk: Desk,
  now: () => number,
  onCut: (reason: string) => void,
): Line {
  const inTime = meter(limits.requestsPerSec, limits.requestBurst, now);
  let strikes = 0;
  let pending = 0;
  let open = true;

  function post(reply: Reply) {
    if (open) port.postMessage(reply);
  }

  function cut() {
    open = false;
    port.onmessage = null;
    port.close();
  }

  function misbehaved(reason: string) {
    cut();
    onCut(reason);
  }

  async function answer(request: Request): Promise<void> {
    const { id } = request;
    pending += 1;
    try {
      if (pending > limits.pending) refuse(`${limits.pending} requests wait already`);
      const work = desk[request.call] as (r: Request, tell: unknown) => Promise<unknown>;
      const tell = (token: WidgetToken) => post({ reply: 'token', id, token });
      post({ reply: 'value', id, value: await work(request, tell) });
    } catch (thrown) {
      const { name, message } = toFailure(thrown);
      post({ reply: 'failed', id, name, message: message.slice(0, 4_000) });
    }
    pending -= 1;
  }

  port.onmessage = ({ data: message }: MessageEvent<unknown>) => {
    if (!inTime()) {
      misbehaved(`It sent more than ${limits.requestsPerSec} requests a second.`);
      return;
    }
    let request: Request;
    try {
      request = readRequest(message, 'The request');
    } catch (thrown) {
      strikes += 1;
      const said = (message as { id?: unknown } | null)?.id;
      const id = Number.isInteger(said) && (said as number) >= 0 ? (said as number) : 0;
      const { name, message: why } = toFailure(thrown);
      post({ reply: 'failed', id: Math.min(id, 0xffffffff), name, message: why.slice(0, 4_000) });
      if (strikes >= limits.strikes) misbehaved(`It sent ${strikes} requests that make no sense.`);
      return;
    }
    void answer(request);
  };

  return { say: (name, value) => post({ reply: 'event', name, value }), cut };
}
