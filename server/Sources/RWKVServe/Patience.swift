// SPDX-License-Identifier: MIT
import NIOCore

/// Closes a connection whose client does not take what is there for it, so that nothing waits for it for ever.
final class Patience: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = NIOAny

  private let limit: TimeAmount
  private var end: Scheduled<Void>?

  init(_ limit: TimeAmount) { self.limit = limit }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    let channel = context.channel
    if channel.isWritable {
      forget()
    } else if end == nil {
      end = context.eventLoop.scheduleTask(in: limit) { channel.close(promise: nil) }
    }
    context.fireChannelWritabilityChanged()
  }

  func channelInactive(context: ChannelHandlerContext) {
    forget()
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) { forget() }

  private func forget() {
    end?.cancel()
    end = nil
  }
}
