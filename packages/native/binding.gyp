{
  "targets": [
    {
      "target_name": "vfio_native",
      "sources": [
        "src-native/addon.cc",
        "src-native/bitmap.cc",
        "src-native/descriptors.cc",
        "src-native/event-loop.cc",
        "src-native/loop-object.cc",
        "src-native/memory.cc",
        "src-native/page-sums.cc",
        "src-native/registers.cc",
        "src-native/sigbus.cc",
        "src-native/sockets.cc",
        "src-native/uv-owner.cc",
        "src-native/watcher.cc"
      ],
      "defines": ["NAPI_VERSION=8", "NAPI_DISABLE_CPP_EXCEPTIONS", "_GNU_SOURCE", "_FILE_OFFSET_BITS=64"],
      "cflags": ["-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"],
      "cflags_cc": [
        "-std=c++17",
        "-fno-exceptions",
        "-fno-rtti",
        "-fvisibility-inlines-hidden",
        "-isystem <!(node -p \"require('path').resolve(require('node-addon-api').include_dir)\")"
      ],
      "cflags_cc!": ["-std=gnu++20", "-std=gnu++17"],
      "ldflags": ["-Wl,-z,nodelete", "-Wl,-z,relro,-z,now"]
    }
  ]
}
