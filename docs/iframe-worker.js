// A worker for pages that are opened from disk, where browsers start none: the search needs one. Its
// script runs in a hidden frame, and messages go from window to window. Material for MkDocs would
// load a script of this name from elsewhere, and asks for `IFrameWorker` by name.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      window.addEventListener("message", event => {
        if (event.source !== inside) return
        const told = new MessageEvent("message", { data: event.data })
        this.dispatchEvent(told)
        if (this.onmessage) this.onmessage(told)
      })
      // Messages that come before the script has been loaded wait for it.
      this.loaded = new Promise(resolve => { this.frame.onload = resolve })
      inside.document.open()
      inside.document.write(
        "<script>window.postMessage = data => {" +
        " window.parent.postMessage(data, '*', []) }</script>" +
        `<script src="${new URL(url, document.baseURI)}"></script>`
      )
      inside.document.close()
      this.deliver = data => this.loaded.then(() =>
        inside.dispatchEvent(new MessageEvent("message", { data })))
    }
    postMessage(data) { this.deliver(data) }
    terminate() { this.frame.remove() }
  }
  window.Worker = window.IFrameWorker
}
