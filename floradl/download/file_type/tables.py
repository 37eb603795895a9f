"""What content types and extensions mean, and which formats can never begin as a text does.

Sources: the IANA media types registry; Apache 2.4's and nginx 1.22's mime.types; Debian's media-types 10.
"""

from __future__ import annotations


def _rows(text: str) -> dict[str, str]:
    """Read lines of an extension and the types that mean it."""
    rows = (line.split() for line in text.splitlines() if line.startswith("."))
    return {kind: row[0] for row in rows for kind in row[1:]}


def marks(text: str) -> dict[bytes, str]:
    """Read lines of an extension and the bytes that mean it, escaped as in Python, and without spaces."""
    return {
        mark.encode("ascii").decode("unicode_escape").encode("latin-1"): extension
        for mark, extension in _rows(text).items()
    }


_OWN_NAMES = """
image:  png jpg gif webp avif heic heif jxl jp2 jpx jpm jph jls jxr jxs bmp tiff psd xcf exr hdr ico
image:  icns dng dds qoi tga pcx ktx ktx2 djvu dpx fits sgi wmf emf bpg flif eps
application: fits mp4 mxf pdf oxps webarchive rtf eps json ndjson xml zip tar xz yaml toml tex latex
application: spz csv
video:  mp4 webm mpg m4v avi flv f4v mxf mj2 dv ivf nut h264 h265
audio:  webm mp3 mp2 m4a m4b aac wav w64 flac ogg oga opus aiff mid amr ac3 eac3 dts caf tta ape dsf
audio:  dff voc xm s3m it mod
text:   rtf json xml srt ass yaml tex rst csv html css vtt
model:  obj mtl stl ply 3mf step fbx vox spz
font:   otf ttf woff woff2
"""
"""Extensions that are the subtype itself, in these trees, with `x-` before it or without."""

TYPES = {
    f"{tree}/{prefix}{name}": f".{name}"
    for tree, names in (line.split(":") for line in _OWN_NAMES.strip().splitlines())
    for name in names.split()
    for prefix in ("", "x-")
} | _rows("""
.png    image/apng image/vnd.mozilla.apng
.jpg    image/jpeg image/pjpeg image/x-jpeg
.avif   image/avif-sequence
.heic   image/heic-sequence
.heif   image/heif-sequence
.jp2    image/jpeg2000
.j2k    image/x-jp2-codestream image/j2c
.jxr    image/vnd.ms-photo
.bmp    image/x-ms-bmp
.tiff   image/tiff-fx
.svg    image/svg+xml
.svgz   image/svg+xml-compressed
.psd    image/vnd.adobe.photoshop image/x-photoshop application/x-photoshop
.ora    image/openraster
.kra    application/x-krita
.exr    image/aces
.hdr    image/vnd.radiance
.ico    image/x-icon image/vnd.microsoft.icon
.cur    image/x-win-bitmap
.dng    image/x-adobe-dng
.cr2    image/x-canon-cr2
.cr3    image/x-canon-cr3
.nef    image/x-nikon-nef
.arw    image/x-sony-arw
.raf    image/x-fuji-raf
.orf    image/x-olympus-orf
.rw2    image/x-panasonic-rw2
.dds    image/vnd.ms-dds
.tga    image/x-targa
.pcx    image/vnd.zbrush.pcx
.pnm    image/x-portable-anymap
.pbm    image/x-portable-bitmap
.pgm    image/x-portable-graymap
.ppm    image/x-portable-pixmap
.xbm    image/x-xbitmap
.xpm    image/x-xpixmap
.djvu   image/vnd.djvu
.sgi    image/x-rgb
.dxf    image/vnd.dxf
.dwg    image/vnd.dwg
.mov    video/quicktime
.mkv    video/x-matroska video/matroska video/matroska-3d
.ogv    video/ogg
.mpg    video/mpeg video/mp1s video/mp2p
.ts     video/mp2t video/vnd.dlna.mpeg-tts
.m4s    video/iso.segment audio/iso.segment
.avi    video/x-msvideo video/msvideo video/vnd.avi
.wmv    video/x-ms-wmv
.asf    video/x-ms-asf application/vnd.ms-asf
.3gp    video/3gpp audio/3gpp
.3g2    video/3gpp2 audio/3gpp2
.y4m    video/x-raw-yuv4mpeg
.mpd    application/dash+xml
.m3u8   application/vnd.apple.mpegurl application/x-mpegurl audio/mpegurl audio/x-mpegurl vnd.apple.mpegurl
.mp3    audio/mpeg audio/x-mpeg audio/mpeg3 audio/mpa
.m4a    audio/mp4
.aac    audio/aacp audio/x-hx-aac-adts
.wav    audio/wave audio/vnd.wave audio/x-pn-wav
.ogg    audio/vorbis audio/x-vorbis+ogg
.opus   audio/x-opus+ogg
.spx    audio/speex audio/x-speex
.mka    audio/x-matroska audio/matroska
.mid    audio/midi audio/x-midi audio/sp-midi
.amr    audio/amr-nb
.awb    audio/amr-wb
.wma    audio/x-ms-wma
.ac3    audio/vnd.dolby.dd-raw
.dts    audio/vnd.dts
.au     audio/basic
.wv     audio/x-wavpack audio/wavpack
.ape    audio/x-monkeys-audio
.mpc    audio/x-musepack audio/musepack
.pls    audio/x-scpls
.xspf   application/xspf+xml
.doc    application/msword
.xls    application/vnd.ms-excel
.ppt    application/vnd.ms-powerpoint
.vsd    application/vnd.visio
.msg    application/vnd.ms-outlook
.docx   application/vnd.openxmlformats-officedocument.wordprocessingml.document
.dotx   application/vnd.openxmlformats-officedocument.wordprocessingml.template
.xlsx   application/vnd.openxmlformats-officedocument.spreadsheetml.sheet
.xltx   application/vnd.openxmlformats-officedocument.spreadsheetml.template
.pptx   application/vnd.openxmlformats-officedocument.presentationml.presentation
.potx   application/vnd.openxmlformats-officedocument.presentationml.template
.ppsx   application/vnd.openxmlformats-officedocument.presentationml.slideshow
.docm   application/vnd.ms-word.document.macroenabled.12
.dotm   application/vnd.ms-word.template.macroenabled.12
.xlsm   application/vnd.ms-excel.sheet.macroenabled.12
.xltm   application/vnd.ms-excel.template.macroenabled.12
.xlsb   application/vnd.ms-excel.sheet.binary.macroenabled.12
.pptm   application/vnd.ms-powerpoint.presentation.macroenabled.12
.potm   application/vnd.ms-powerpoint.template.macroenabled.12
.ppsm   application/vnd.ms-powerpoint.slideshow.macroenabled.12
.vsdx   application/vnd.ms-visio.drawing
.xps    application/vnd.ms-xpsdocument
.odt    application/vnd.oasis.opendocument.text
.ott    application/vnd.oasis.opendocument.text-template
.ods    application/vnd.oasis.opendocument.spreadsheet
.ots    application/vnd.oasis.opendocument.spreadsheet-template
.odp    application/vnd.oasis.opendocument.presentation
.otp    application/vnd.oasis.opendocument.presentation-template
.odg    application/vnd.oasis.opendocument.graphics
.otg    application/vnd.oasis.opendocument.graphics-template
.odf    application/vnd.oasis.opendocument.formula
.odc    application/vnd.oasis.opendocument.chart
.odb    application/vnd.oasis.opendocument.base application/vnd.oasis.opendocument.database
.odm    application/vnd.oasis.opendocument.text-master
.pages  application/vnd.apple.pages application/x-iwork-pages-sffpages
.numbers application/vnd.apple.numbers application/x-iwork-numbers-sffnumbers
.key    application/vnd.apple.keynote application/x-iwork-keynote-sffkey
.epub   application/epub+zip
.mxl    application/vnd.recordare.musicxml
.idml   application/vnd.adobe.indesign-idml-package
.mobi   application/x-mobipocket-ebook
.ps     application/postscript
.ai     application/illustrator application/vnd.adobe.illustrator
.jsonld application/ld+json
.ndjson application/jsonl
.geojson application/geo+json
.lottie application/zip+dotlottie
.zip    application/x-zip-compressed
.gz     application/gzip application/x-gzip
.7z     application/x-7z-compressed
.rar    application/vnd.rar application/x-rar-compressed
.bz2    application/x-bzip2
.zst    application/zstd
.srt    application/x-subrip
.ass    text/x-ssa
.ttml   application/ttml+xml
.ipynb  application/x-ipynb+json
.sqlite application/vnd.sqlite3 application/x-sqlite3
.parquet application/vnd.apache.parquet
.glb    model/gltf-binary
.gltf   model/gltf+json
.stl    model/x.stl-ascii model/x.stl-binary application/sla application/vnd.ms-pki.stl
.3mf    application/vnd.ms-package.3dmanufacturing-3dmodel+xml
.usdz   model/vnd.usdz+zip
.usda   model/vnd.usda
.usdc   model/vnd.usdc
.dae    model/vnd.collada+xml
.fbx    application/vnd.autodesk.fbx
.blend  application/x-blender
.otf    application/font-sfnt application/x-font-otf application/vnd.ms-opentype
.ttf    font/sfnt application/x-font-ttf
.ttc    font/collection
.woff   application/font-woff application/x-font-woff
.woff2  application/font-woff2
.txt    text/plain
.md     text/markdown text/x-markdown text/x-web-markdown
.csv    text/comma-separated-values
.tsv    text/tab-separated-values
.html   application/xhtml+xml
.ics    text/calendar
.vcf    text/vcard text/x-vcard
""")
"""Content types, in lower case, and the extensions they mean."""


def _families(text: str) -> dict[str, frozenset[str]]:
    """Read lines of an extension and of those of its kind; some go on in a second line."""
    families: dict[str, frozenset[str]] = {}
    for line in text.strip().splitlines():
        certain, members = line.split(None, 1)
        families[certain] = families.get(certain, frozenset()) | _set(members)
    return families


def _set(extensions: str) -> frozenset[str]:
    return frozenset(f".{extension}" for extension in extensions.split())


REFINED = _families("""
.zip    docx docm dotx dotm xlsx xlsm xltx xltm xlsb xlam pptx pptm potx potm ppsx ppsm vsdx vsdm
.zip    xps oxps odt ods odp odg odf odc odb odm ott ots otp otg epub usdz cbz 3mf kmz pages
.zip    numbers key lottie ora kra sketch xd idml mxl sog procreate comiclife rbxl sb3 fcstd f3d
.zip    amf vrma ggb kdenlive aup3 dwfx mscz ptx afdesign mpkg
.docx   docm dotx dotm
.xlsx   xlsm xltx xltm xlsb xlam
.pptx   pptm potx potm ppsx ppsm ppam
.odt    ott odm oth
.ods    ots
.odp    otp
.odg    otg
.xps    oxps
.doc    xls ppt vsd msg dot xlt pot pps pub mpp wps max thm
.xls    xlt xla
.ppt    pps pot
.xml    gpx kml dae fcpxml ttml rss atom svg mpd smil xspf musicxml fodt fods fodp fodg fb2 opml
.xml    tei icml idms xhtml plist xmp xsl xslt xsd dbk drawio graphml gexf x3d amf mei rdf
.xml    owl sbml cml aup mlt tmx tsx xliff xlf resx wsdl ismc ism prproj xmeml edl sif gml citygml
.xml    ui vtu vtp vts gnumeric xbel
.html   md markdown mdx txt rst vue svelte hbs ejs wiki xhtml
.json   lottie gltf geojson jsonld ndjson jsonl ipynb topojson har map tldr
.json   json5 tgs cast rawproj vl vg
.gltf   vrm
.tiff   dng nef nrw arw sr2 cr2 pef srw 3fr iiq dcr kdc erf mef mos ptif btf tf8 svs scn
.jpg    jps mpo insp
.mp4    m4a m4v m4b m4r m4p f4v m4s ismv isma cmfv cmfa cmft mp4v mp4a
.mov    insv
.m4a    m4b m4r m4p mp4a
.3gp    3g2
.m4s    cmfv cmfa cmft m4f
.mp3    aac flac mp2 mp1 tta ape mpc ac3 dts wv
.mp2    mpa mp1 m2a
.ogg    oga ogv ogx ogm spx opus
.ogv    ogx ogm
.mkv    mka mks mk3d
.webm   weba
.wmv    wma asf
.wma    asf
.wav    bwf rf64 amb
.aiff   aifc
.au     snd
.mid    kar
.amr    awb
.eac3   ec3
.loas   latm
.mpg    vob m1v m2v mpv m2p ps dat mod tod evo
.ts     m2t m2ts mts tsv trp tp mpegts
.m2ts   mts ts m2t
.h264   264 avc jsv h26l
.h265   265 hevc
.m3u8   m3u
.ass    ssa
.ttml   dfxp
.gz     tgz svgz spz blend vgz als adg emz wmz gnumeric dia nii
.bz2    tbz tbz2
.xz     txz
.zst    tzst blend
.pdf    ai
.ps     eps ai prn
.eps    epsf epsi ai
.glb    vrm
.usdc   usd
.usda   usd
.step   stp
.wrl    vrml x3dv
.sgi    rgb rgba bw int inta
.j2k    j2c jpc jhc
.jp2    jpx jpf jpm jph
.jxr    wdp hdp
.pbm    pnm
.pgm    pnm
.ppm    pnm
.fits   fit fts
.avif   avifs
.heic   hif heics
.heif   hif heifs
.sqlite db sqlite3 mbtiles gpkg
.plist  webarchive strings
.ttc    otc
.rm     rmvb ra
""")
"""What the content is for certain -> what a type or a name may know better, being a kind of it."""

BINARY = _set("""
    png jpg jpeg jpe jfif gif webp avif heic heif hif jxl jp2 jpx jph j2k j2c jls jxr bmp tiff tif svgz
    psd psb xcf ora kra exr ico cur icns dng cr2 cr3 nef arw raf orf rw2 dds qoi tga ktx ktx2 djvu fits
    bpg flif dpx mp4 m4v mov qt webm mkv mk3d ogv mpg mpeg vob m2ts avi wmv asf flv f4v 3gp 3g2 m4s mxf
    mj2 ivf y4m mp3 mp2 m4a m4b aac wav w64 flac ogg oga opus spx weba mka aiff aif aifc caf mid midi
    amr wma ac3 eac3 dts au wv tta ape mpc dsf pdf docx docm xlsx xlsm pptx pptm odt ods odp odg epub
    xps oxps zip gz tgz 7z rar bz2 xz zst glb usdz usdc 3mf blend vox spz otf ttf ttc woff woff2 sqlite
    parquet
""")
"""Formats that are never a text: the page or message that stands there instead is none of theirs."""

MAY_BE_ZEROS = frozenset({".tga", ".tar", ".dv"})
"""Of those, such that may begin with many zeros."""

NEVER_HTML = _set("""
    json jsonl ndjson geojson lottie gltf csv tsv srt vtt ass ssa lrc m3u8 m3u pls obj mtl stl ply usda
    step dxf ps eps ai rtf hdr ppm pgm pbm pnm pfm xpm xbm fbx cube toml ics bvh
""")
"""Texts that an HTML page cannot be."""

MARKUP = REFINED[".xml"] | {".xml"}
DATA = REFINED[".json"] | {".json"}
NEVER_JSON = (NEVER_HTML - DATA) | MARKUP | {".html", ".htm"}
"""Texts that a JSON object cannot be."""

RUNNABLE = _set("""
    app apk appimage appx bash bat cmd com command cpl csh deb desktop dll dmg elf exe fish gadget hta
    inf ins iso jar jnlp job js jse ksh lnk mjs msc msi msix msp mst pif pkg pl ps1 psd1 psm1 py pyc pyw
    pyz rb reg rpm run scf scr sct service sh shb shs so sys terminal tool url vb vbe vbs website
    workflow ws wsc wsf wsh xbap xll zsh
""")
"""A stranger's URL does not get to put something that a double click runs into the library."""
