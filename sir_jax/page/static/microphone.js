// Records the microphone as a WAV file. MediaRecorder would write webm, which the server cannot read.

export class Microphone {
  // limit: most seconds. onPiece(samples, seconds so far) is called for each piece of the recording,
  // onFull() when the limit is reached.
  constructor(limit, onPiece, onFull) {
    Object.assign(this, { limit, onPiece, onFull, pieces: [], samples: 0, full: false, stopped: false });
  }

  async start() {
    if (!navigator.mediaDevices) throw new Error("this browser gives the page no microphone");
    // These filters are made for calls and distort recordings.
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, ...raw } });
    } catch (error) {
      const reasons = {
        NotAllowedError: "the microphone was not allowed; allow it in the address bar, or choose a file",
        NotFoundError: "no microphone was found; choose a file instead",
      };
      throw new Error(reasons[error.name] ?? `the microphone does not work (${error.message})`);
    }
    try {
      this.context = new AudioContext();
      await this.context.resume();
      const node = await this.#tap();
      const silence = this.context.createGain();
      silence.gain.value = 0;
      // Some browsers run a node only if it is connected to the output; the gain of 0 mutes it.
      this.context.createMediaStreamSource(this.stream).connect(node).connect(silence);
      silence.connect(this.context.destination);
      // `stop` may have been called while the browser was still asking for permission.
      if (this.stopped) await this.#release();
    } catch (error) {
      await this.#release();
      if (this.stopped) return;
      throw new Error(`the microphone does not work (${error.message})`);
    }
  }

  async #tap() {
    if (this.context.audioWorklet) {
      await this.context.audioWorklet.addModule("/static/capture.js");
      const node = new AudioWorkletNode(this.context, "capture", { channelCount: 1, channelCountMode: "explicit" });
      node.port.onmessage = (event) => this.#take(event.data);
      return node;
    }
    const node = this.context.createScriptProcessor(2048, 1, 1);
    node.onaudioprocess = (event) => this.#take(event.inputBuffer.getChannelData(0).slice());
    return node;
  }

  #take(piece) {
    const most = Math.floor(this.limit * this.context.sampleRate) - this.samples;
    if (this.stopped || this.full || most <= 0) return;
    const kept = piece.subarray(0, most);
    this.pieces.push(kept);
    this.samples += kept.length;
    this.onPiece(kept, this.samples / this.context.sampleRate);
    if (kept.length === most) {
      this.full = true;
      this.onFull();
    }
  }

  // Stops; returns the recording as a Blob, or null if nothing was recorded.
  async stop() {
    this.stopped = true;
    const rate = this.context?.sampleRate;
    await this.#release();
    return this.samples ? wav(this.pieces, this.samples, rate) : null;
  }

  async #release() {
    this.stream?.getTracks().forEach((track) => track.stop());
    if (this.context && this.context.state !== "closed") await this.context.close();
  }
}

// Returns a WAV file of 16-bit mono PCM.
function wav(pieces, samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples));
  const text = (at, letters) => [...letters].forEach((each, i) => view.setUint8(at + i, each.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples, true);
  let at = 44;
  for (const piece of pieces) {
    for (const value of piece) {
      view.setInt16(at, Math.round(Math.max(-1, Math.min(1, value)) * 32767), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
