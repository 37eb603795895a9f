"""Whether a file is whole, judged by its own format: the last resort where a server gave no length.

What enters is a file and the extension that its content has; what leaves is a judgement. `True` is only said
where the format proves that nothing is missing: it marks its end, or states its length, and the file ends
there. `False` means that bytes are missing for sure. All else is `None`: a format that may always go on (a
further Ogg link, gzip member, fragment, or update of a PDF), a writer that left no length, and whatever
somebody appended behind the end.

Nothing here follows a file without bounds: reads are by position, steps are counted, nothing recurs.
"""

from __future__ import annotations

from collections.abc import Mapping

from floradl.download.truncation import audio, documents, images, rasters, riff, video
from floradl.download.truncation.window import Judge, ReadAt, Window


def is_whole(read: ReadAt, size: int, extension: str) -> bool | None:
    """Say whether the file of `size` bytes that `read` reads is whole, as its `extension` (`.png`) has it.

    Raises what `read` does.
    """
    judge = _JUDGES.get(extension)
    return judge(Window(read, size)) if judge else None


_BY_JUDGE: Mapping[Judge, str] = {
    images.png: "png apng mng jng",
    images.jpeg: "jpg jpeg jpe jfif jls mpo",
    images.gif: "gif",
    images.qoi: "qoi",
    images.bitmap: "bmp dib",
    images.icon: "ico cur",
    images.apple_icon: "icns",
    rasters.tiff: "tif tiff dng nef arw cr2 ptif tf8 btf",
    rasters.exr: "exr",
    rasters.photoshop: "psd psb",
    rasters.direct_draw: "dds",
    rasters.khronos: "ktx2",
    rasters.exchange: "dpx",
    rasters.netpbm: "pbm pgm ppm pnm pam pfm",
    rasters.silicon_graphics: "sgi rgb rgba bw",
    rasters.sun_raster: "ras sun sr",
    rasters.targa: "tga",
    rasters.flexible_transport: "fits fit fts",
    rasters.radiance: "hdr pic",
    riff.riff: "webp wav avi rf64 bwf",
    riff.form: "aif aiff aifc 8svx",
    riff.wave64: "w64",
    riff.core_audio: "caf",
    riff.sun_audio: "au snd",
    riff.creative_voice: "voc",
    video.film: "mp4 m4a m4b m4v mov 3gp 3g2 f4v ismv isma mj2 qt avif avifs heic heif hif cr3",
    video.segment: "m4s cmfv cmfa",
    video.jpeg_xl: "jxl",
    video.jpeg_2000: "jp2 j2k j2c jpc jpx jpf jpm",
    video.matroska: "webm mkv mka mks mk3d",
    audio.mpeg_layer_3: "mp3",
    audio.mpeg_layer_2: "mp2",
    audio.flac: "flac",
    audio.ogg: "ogg oga ogv opus spx ogx",
    audio.advanced_audio: "aac loas latm",
    audio.dolby: "ac3 eac3 ec3",
    audio.digital_theater: "dts",
    audio.adaptive_multi_rate: "amr awb amr-nb amr-wb",
    audio.wavpack: "wv",
    audio.true_audio: "tta",
    audio.midi: "mid midi",
    video.transport: "ts m2ts mts",
    video.program: "mpg mpeg vob",
    video.flash: "flv",
    video.advanced_systems: "wmv wma asf",
    video.material_exchange: "mxf",
    video.indeo_video: "ivf",
    video.raw_frames: "y4m",
    video.shockwave: "swf",
    documents.pdf: "pdf ai",
    documents.compound: "doc xls ppt msg",
    documents.rich_text: "rtf",
    documents.zip_archive: (
        "zip docx xlsx pptx docm xlsm pptm dotx xltx potx ppsx xlsb vsdx odt ods odp odg ott otp ots epub "
        "usdz cbz 3mf kmz lottie ora kra pages key numbers xps oxps jar apk sketch idml mscz mxl fcstd"
    ),
    documents.gzip: "gz tgz svgz",
    documents.bzip2: "bz2",
    documents.xz: "xz",
    documents.zstandard: "zst",
    documents.lz4: "lz4",
    documents.seven_zip: "7z",
    documents.tar: "tar",
    documents.xml: (
        "svg xml gpx kml dae fcpxml ttml rss atom mpd fodt fods fodp fodg x3d amf xmp plist vtu musicxml fb2 "
        "opml xhtml xsl xspf icml drawio"
    ),
    documents.json: "json gltf geojson topojson ipynb webmanifest har",
    images.binary_gltf: "glb vrm",
    images.stereolithography: "stl",
    images.polygons: "ply",
    images.filmbox: "fbx",
    images.chunked_studio: "3ds",
    images.crate: "usdc",
    images.font: "ttf otf woff woff2",
}
_JUDGES = {f".{extension}": judge for judge, all_ in _BY_JUDGE.items() for extension in all_.split()}
